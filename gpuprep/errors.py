"""Every error gpuprep raises on purpose.

The first question is who must act: a `CaseError` ends one case, becomes a row of the ledger, and the job goes on;
a `JobError` stops the job before work is wasted.

::

    GpuprepError
    ├─ JobError
    │  ├─ ConfigError              an option or a configuration file is wrong       exit 2
    │  ├─ InputNotFoundError       nothing to work on                               exit 3
    │  ├─ BackendUnavailableError  the backend that was asked for cannot work here  exit 5
    │  │  └─ KernelError           kernel sources or the host library are missing or do not build
    │  └─ OutputError              the output cannot be written                     exit 6
    ├─ DeviceLostError             a CUDA device failed: the process that used it has to end
    └─ CaseError                   some cases failed                                exit 4
       ├─ HeaderError              the file is not DICOM, or its header is unusable
       ├─ LinkError                a segmentation and its image series do not find each other
       ├─ GeometryError            the frames do not make a volume
       ├─ DecodeError              the pixels cannot be decoded
       ├─ RoiError                 a ROI or contour cannot be used, or no ROI matches
       ├─ OverlapError             ROIs overlap where the output cannot hold that
       ├─ DeviceMemoryError        the device has too little memory
       └─ WriteError               this case's files cannot be written            exit 6 outside a job

Codes are stable, lower case, with hyphens; tests and scripts rely on them, never on the message.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar

#: Hint where a file is shorter than it says, or damaged.
COPY_AGAIN = "copy the file from its source again"


class ExitStatus(IntEnum):
    """Exit status of the `gpuprep` command."""

    DONE = 0
    INTERNAL = 1
    CONFIG = 2
    NO_INPUT = 3
    CASES_FAILED = 4
    NO_BACKEND = 5
    OUTPUT = 6
    INTERRUPTED = 130


class GpuprepError(Exception):
    """Base of all deliberate errors.

    Parameters
    ----------
    message : str
        What happened, where, what was expected and what was found. No patient name, ever.
    code : str
        Stable identifier, for example ``missing-slice``.
    subject : str, optional
        The path or UID concerned.
    hint : str, optional
        What the user can do about it.
    """

    stage: ClassVar[str] = "job"
    exit_status: ClassVar[ExitStatus] = ExitStatus.INTERNAL

    def __init__(self, message: str, *, code: str, subject: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.subject = subject
        self.hint = hint

    def __str__(self) -> str:
        head = f"{self.subject}: {self.message}" if self.subject else self.message
        return f"{head} [{self.code}]"

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.message, self.code, self.subject, self.hint)


def _rebuild(cls: type[GpuprepError], message: str, code: str, subject: str, hint: str) -> GpuprepError:
    return cls(message, code=code, subject=subject, hint=hint)


class JobError(GpuprepError):
    """Stops the whole job."""


class ConfigError(JobError, ValueError):
    """An option or configuration file is wrong."""

    stage = "config"
    exit_status = ExitStatus.CONFIG


class InputNotFoundError(JobError, FileNotFoundError):
    """There is nothing to work on."""

    stage = "input"
    exit_status = ExitStatus.NO_INPUT


class BackendUnavailableError(JobError, RuntimeError):
    """The backend that was asked for cannot work on this machine; the message says why."""

    stage = "backend"
    exit_status = ExitStatus.NO_BACKEND


class DeviceLostError(GpuprepError, RuntimeError):
    """A CUDA device failed and does no more work for this process, whatever the case; another process may use it."""

    stage = "backend"


class KernelError(BackendUnavailableError):
    """Kernel sources or the compiled host library are missing, do not build, or refuse a launch."""


class OutputError(JobError, OSError):
    """The output folder cannot be written or holds something else."""

    stage = "output"
    exit_status = ExitStatus.OUTPUT


class CaseError(GpuprepError):
    """Ends one case; the job goes on."""

    exit_status = ExitStatus.CASES_FAILED


class HeaderError(CaseError):
    """A file is not DICOM, or its header lacks or garbles what is needed."""

    stage = "header"


class LinkError(CaseError):
    """A segmentation's image series is missing, or more than one would do."""

    stage = "link"


class GeometryError(CaseError, ValueError):
    """The frames of a series do not make one volume."""

    stage = "stack"


class DecodeError(CaseError):
    """Pixel data cannot be decoded."""

    stage = "decode"


class RoiError(CaseError):
    """A ROI, segment or contour cannot be used, or no ROI name matches."""

    stage = "roi"


class OverlapError(CaseError):
    """ROIs overlap in an output that holds one label a voxel."""

    stage = "label"


class DeviceMemoryError(CaseError, MemoryError):
    """The device has too little memory for a case."""

    stage = "ops"


class WriteError(CaseError, OSError):
    """A case's files cannot be written; outside a job, where there is nothing else to do, the output cannot."""

    stage = "write"
    exit_status = ExitStatus.OUTPUT
