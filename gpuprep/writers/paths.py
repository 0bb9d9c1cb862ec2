"""File names made of DICOM fields."""

from __future__ import annotations

from dataclasses import dataclass
from string import Formatter

from gpuprep.dicom.header import InstanceHeader
from gpuprep.errors import ConfigError
from gpuprep.writers.names import NIFTI_SUFFIXES, safe_name

#: Field of a template → attribute of `InstanceHeader`.
HEADER_FIELDS = {
    "PatientID": "patient_id",
    "StudyInstanceUID": "study_instance_uid",
    "SeriesInstanceUID": "series_instance_uid",
    "SOPInstanceUID": "sop_instance_uid",
    "FrameOfReferenceUID": "frame_of_reference_uid",
    "Modality": "modality",
    "Manufacturer": "manufacturer",
    "StudyDate": "study_date",
    "StudyTime": "study_time",
    "SeriesDate": "series_date",
    "SeriesTime": "series_time",
    "SeriesNumber": "series_number",
    "SeriesDescription": "series_description",
    "AcquisitionNumber": "acquisition_number",
    "StructureSetLabel": "structure_set_label",
}
#: Fields that are not from the header: the case's own name, and what of the case a file is (``CT``, a ROI's name).
CASE_FIELD, IMAGE_FIELD = "CaseID", "ImageID"
DEFAULT_TEMPLATE = "{PatientID}/{Modality}_{SeriesInstanceUID}/{ImageID}.nii.gz"
#: Stands for fields that a header lacks.
ABSENT = "none"


@dataclass(frozen=True, slots=True)
class PathTemplate:
    """Where files go: a relative path with fields in braces, as `DEFAULT_TEMPLATE`.

    Parameters
    ----------
    text : str
        Ends in ``.nii.gz`` or ``.nii``. Fields are those of `HEADER_FIELDS`, ``CaseID`` and ``ImageID``.

    Raises
    ------
    ConfigError
        ``bad-filename-format``, ``unknown-field``.
    """

    text: str

    def __post_init__(self) -> None:
        if not self.text.endswith(NIFTI_SUFFIXES):
            raise self._refuse(f"it does not end in {' or '.join(NIFTI_SUFFIXES)}")
        if "\\" in self.text or any(folder.strip(" .") == "" for folder in self.stem.split("/")):
            raise self._refuse("it is no relative path of named folders and a named file")
        known = (*HEADER_FIELDS, CASE_FIELD, IMAGE_FIELD)
        for _, field in self._parts():
            if field is not None and field not in known:
                raise ConfigError(
                    f"there is no field {field!r} for file names",
                    code="unknown-field",
                    hint=f"fields are {', '.join(known)}",
                )

    @property
    def suffix(self) -> str:
        """``.nii.gz`` or ``.nii``."""
        return next(s for s in NIFTI_SUFFIXES if self.text.endswith(s))

    @property
    def stem(self) -> str:
        """The template without its suffix."""
        return self.text[: -len(self.suffix)]

    @property
    def tells_files_of_a_case_apart(self) -> bool:
        """Whether ``ImageID`` is part of it."""
        return any(field == IMAGE_FIELD for _, field in self._parts())

    def fill(self, header: InstanceHeader, *, case: str, image: str) -> str:
        """Return the path without suffix; what comes from `header` is reduced by `safe_name`."""
        own = {CASE_FIELD: case, IMAGE_FIELD: image}
        path = ""
        for literal, field in self._parts():
            path += literal
            if field in own:
                path += own[field]
            elif field is not None:
                value = getattr(header, HEADER_FIELDS[field])
                path += safe_name("" if value is None else str(value), ABSENT)
        return path

    def _parts(self) -> list[tuple[str, str | None]]:
        try:
            parts = list(Formatter().parse(self.stem))
        except ValueError as error:
            raise self._refuse(str(error)) from error
        if any(form or conversion for _, _, form, conversion in parts):
            raise self._refuse("fields have no formats")
        return [(literal, field) for literal, field, _, _ in parts]

    def _refuse(self, reason: str) -> ConfigError:
        return ConfigError(
            f"file name format {self.text!r}: {reason}",
            code="bad-filename-format",
            hint=f"write, for example, {DEFAULT_TEMPLATE}",
        )
