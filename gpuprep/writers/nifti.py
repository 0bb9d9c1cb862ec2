"""NIfTI-1 single files, ``.nii`` and ``.nii.gz``.

The header is written here, 348 bytes, because importing a NIfTI library would cost more time than converting a
series; nibabel and SimpleITK are what the tests read it with.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from gpuprep.errors import WriteError
from gpuprep.geometry import VolumeGeometry
from gpuprep.writers.atomic import replacing
from gpuprep.writers.base import Output
from gpuprep.writers.block_gzip import write_gzip

#: NIfTI datatype codes (nifti1.h).
_DATATYPES = {"uint8": 2, "int16": 4, "int32": 8, "float32": 16, "uint16": 512, "uint32": 768}
#: Those that only others write; and what each stands for.
_READ_ONLY = {"float64": 64, "int8": 256, "int64": 1024, "uint64": 1280}
_DTYPES = {code: name for name, code in (_DATATYPES | _READ_ONLY).items()}
#: NIFTI_XFORM_SCANNER_ANAT: the affine leads to scanner coordinates.
_SCANNER = 1
#: NIFTI_UNITS_MM.
_UNITS_MM = 2
#: NIFTI_UNITS_METER and NIFTI_UNITS_MICRON, in mm; others say mm or nothing. The bits of xyzt_units that are of space.
_MM_OF_UNITS = {1: 1000.0, 3: 0.001}
_SPACE_UNITS = 0x07
_HEADER_SIZE = 348
_VOXEL_OFFSET = 352
#: A quaternion whose first part is less is a half turn, of which either sign says the same.
_HALF_TURN = 1e-9
#: Extensions beyond this many bytes are no extensions.
_LARGEST_OFFSET = 1 << 30
#: Bytes read at a time where they are only to be checked.
_READ_STEP = 1 << 16
#: Extensions fill multiples of this many bytes, with their size and code in the first eight.
_EXTENSION_STEP = 16
#: isal levels. On CT of 16 bits level 2 writes 1 % more than level 3 in 0.85 of the time, level 1 4 % more in 0.75; the
#: bytes of labels are few at any level.
IMAGE_LEVEL = 2
LABEL_LEVEL = 1


@dataclass(frozen=True, slots=True)
class Extension:
    """A header extension: its code in the NIfTI registry, and its content."""

    code: int
    content: bytes


@dataclass(frozen=True, slots=True, eq=False)
class NiftiFile:
    """What a NIfTI file holds: values (D, H, W), grid, header extensions."""

    array: NDArray[Any]
    geometry: VolumeGeometry
    extensions: tuple[Extension, ...]


def index_to_ras(geometry: VolumeGeometry) -> NDArray[np.float64]:
    """Return the NIfTI affine, shape (4, 4): index (i, j, k) = (column, row, slice) to RAS+ mm.

    Directions are made exactly orthonormal (nearest rotation or reflection by polar decomposition): DICOM's decimal
    strings leave them a few 1e-6 off, which some readers refuse.

    Raises
    ------
    WriteError
        ``not-orthogonal``: the axes are not at right angles, which NIfTI's qform cannot say.
    """
    if not geometry.is_orthogonal():
        raise WriteError("a sheared grid does not fit into NIfTI", code="not-orthogonal")
    u, _, vt = np.linalg.svd(geometry.directions_dhw[::-1].T)
    affine = np.eye(4)
    affine[:3, :3] = (u @ vt) * geometry.spacing_dhw_mm[::-1]
    affine[:3, 3] = geometry.origin_lps_mm
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def quaternion(rotation: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return (b, c, d) of the unit quaternion of a rotation matrix, a ≥ 0 (nifti1.h, method 2)."""
    # The eigenvector of the largest eigenvalue of this symmetric matrix: Bar-Itzhack, J. Guid. Control Dyn. 23 (2000).
    r = rotation
    k = np.array(
        [
            [r[0, 0] + r[1, 1] + r[2, 2], r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]],
            [r[2, 1] - r[1, 2], r[0, 0] - r[1, 1] - r[2, 2], r[1, 0] + r[0, 1], r[2, 0] + r[0, 2]],
            [r[0, 2] - r[2, 0], r[1, 0] + r[0, 1], r[1, 1] - r[0, 0] - r[2, 2], r[2, 1] + r[1, 2]],
            [r[1, 0] - r[0, 1], r[2, 0] + r[0, 2], r[2, 1] + r[1, 2], r[2, 2] - r[0, 0] - r[1, 1]],
        ]
    )
    _, vectors = np.linalg.eigh(k)
    a, b, c, d = vectors[:, -1] if vectors[0, -1] >= 0 else -vectors[:, -1]
    if abs(a) < _HALF_TURN and next(v for v in (b, c, d) if abs(v) > _HALF_TURN) < 0:
        b, c, d = -b, -c, -d
    return float(b), float(c), float(d)


def header_bytes(dtype: np.dtype[Any], geometry: VolumeGeometry, extensions: Sequence[Extension] = ()) -> bytes:
    """Return the bytes before the voxels: header, extension flag, extensions.

    Raises
    ------
    WriteError
        ``not-orthogonal``; ``too-large``: an axis has more voxels than NIfTI-1 can say.
    """
    affine = index_to_ras(geometry)
    depth, height, width = geometry.shape
    if max(geometry.shape) > np.iinfo(np.int16).max:
        raise WriteError(
            f"NIfTI-1 holds at most 32767 voxels an axis, not {geometry.shape}",
            code="too-large",
            hint="crop, or use a coarser --spacing",
        )
    spacing = geometry.spacing_dhw_mm[::-1]
    rotation = affine[:3, :3] / spacing
    handed = 1.0 if np.linalg.det(rotation) > 0 else -1.0
    b, c, d = quaternion(rotation * np.array([1.0, 1.0, handed]))
    header = bytearray(_VOXEL_OFFSET)
    header[_HEADER_SIZE] = bool(extensions)
    for extension in extensions:
        size = -(-(8 + len(extension.content)) // _EXTENSION_STEP) * _EXTENSION_STEP
        header += struct.pack("<2i", size, extension.code) + extension.content.ljust(size - 8, b"\0")
    struct.pack_into("<i", header, 0, _HEADER_SIZE)
    struct.pack_into("<c", header, 38, b"r")
    struct.pack_into("<8h", header, 40, 3, width, height, depth, 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, _DATATYPES[dtype.name], dtype.itemsize * 8)
    struct.pack_into("<8f", header, 76, handed, *spacing, 0, 0, 0, 0)
    struct.pack_into("<3f", header, 108, len(header), 1.0, 0.0)
    struct.pack_into("<B", header, 123, _UNITS_MM)
    struct.pack_into("<2h", header, 252, _SCANNER, _SCANNER)
    struct.pack_into("<6f", header, 256, b, c, d, *affine[:3, 3])
    struct.pack_into("<12f", header, 280, *affine[:3].ravel())
    struct.pack_into("<4s", header, 344, b"n+1")
    return bytes(header)


def write_nifti(
    path: Path,
    array: NDArray[Any],
    geometry: VolumeGeometry,
    *,
    level: int,
    threads: int,
    root: Path,
    extensions: Sequence[Extension] = (),
    filled: range | None = None,
) -> Output:
    """Write a volume; ``.nii.gz`` is compressed by isal in blocks of 1 MiB, so threads do not change the bytes.

    Parameters
    ----------
    path : Path
        Ends in ``.nii`` or ``.nii.gz``.
    array : ndarray of shape (D, H, W)
        C order: uint8, uint16, uint32, int16, int32 or float32.
    geometry : VolumeGeometry
        Its grid. The affine is written as sform and qform, both with code 1.
    level : int
        isal compression level, 0 to 3.
    threads : int
        Compression threads, at least 1.
    root : Path
        What the returned path is relative to.
    extensions : sequence of Extension
        Header extensions, in order.
    filled : range, optional
        Slices that may hold something: the others are 0, and a ``.nii.gz`` is written in the time that these take.

    Raises
    ------
    WriteError
        ``not-orthogonal``, ``too-large``, and what `replacing` raises.
    """
    header = header_bytes(array.dtype, geometry, extensions)
    voxels = np.ascontiguousarray(array).data.cast("B")
    slice_bytes = array[0].nbytes
    filled_bytes = None if filled is None else range(filled.start * slice_bytes, filled.stop * slice_bytes)
    crc = 0
    with replacing(path) as part:
        with part.open("wb") as file:
            if path.suffix.lower() == ".gz":
                crc = write_gzip(file, header, voxels, level=level, threads=threads, filled=filled_bytes)
            else:
                file.write(header)
                file.write(voxels)
        size = part.stat().st_size
    return Output(path.relative_to(root).as_posix(), size, crc)


def read_nifti(path: Path) -> NiftiFile:
    """Read a NIfTI-1 single file of either byte order, compressed or not.

    The grid is the sform's, else the qform's, turned from RAS+ to LPS.

    Raises
    ------
    ValueError
        It is no such file, or cut short; it has more than one volume, neither sform nor qform, or values that are no
        plain numbers.
    EOFError, OSError, igzip_lib.IsalError
        It cannot be read, or decompressed.
    """
    with _open(path) as (header, stream):
        stored = np.frombuffer(_read_bytes(stream, header.slice_bytes * header.geometry.shape[0]), header.dtype)
        read_to_end(stream)
    array = header.to_values(stored.reshape(header.geometry.shape))
    return NiftiFile(array, header.geometry, header.extensions)


def read_filled_slices(path: Path) -> tuple[VolumeGeometry, int, NDArray[Any]]:
    """Read a volume that is 0 in most slices without ever holding those.

    Returns
    -------
    geometry : VolumeGeometry
        Grid of the whole volume.
    first : int
        First slice that holds something; 0 where none does.
    array : ndarray of shape (D, H, W)
        The slices from there to the last that holds something; D is 0 where none does.

    Raises
    ------
    ValueError, EOFError, OSError, igzip_lib.IsalError
        As `read_nifti`.
    """
    with _open(path) as (header, stream):
        depth, height, width = header.geometry.shape
        nothing = bytes(header.slice_bytes)
        filled = {}
        for d in range(depth):
            content = _read_bytes(stream, header.slice_bytes)
            if content != nothing or header.intercept:
                filled[d] = content
        read_to_end(stream)
    first, end = (min(filled), max(filled) + 1) if filled else (0, 0)
    stored = np.frombuffer(b"".join(filled.get(d, nothing) for d in range(first, end)), header.dtype)
    return header.geometry, first, header.to_values(stored.reshape(end - first, height, width))


@dataclass(frozen=True, slots=True, eq=False)
class _Header:
    """What comes before the voxels; a slope of 0 leaves stored values as they are."""

    geometry: VolumeGeometry
    dtype: np.dtype[Any]
    slope: float
    intercept: float
    extensions: tuple[Extension, ...]

    @property
    def slice_bytes(self) -> int:
        """Bytes of a slice."""
        _, height, width = self.geometry.shape
        return height * width * self.dtype.itemsize

    def to_values(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Return the values that stored ones stand for: as they are, or float64."""
        if (self.slope, self.intercept) != (1.0, 0.0):
            return stored * np.float64(self.slope) + self.intercept
        return stored.astype(self.dtype.newbyteorder("="), copy=False)


@contextmanager
def _open(path: Path) -> Iterator[tuple[_Header, IO[bytes]]]:
    """Open a file; the stream is at its voxels."""
    from isal import igzip

    with path.open("rb") as file:
        is_compressed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        stream: IO[bytes]
        with igzip.GzipFile(fileobj=file) if is_compressed else nullcontext(file) as stream:
            yield _read_header(stream), stream


def _read_header(stream: IO[bytes]) -> _Header:
    data = stream.read(_VOXEL_OFFSET).ljust(_VOXEL_OFFSET, b"\0")
    order: Literal["<", ">"] = "<" if int.from_bytes(data[:4], "little") == _HEADER_SIZE else ">"

    def field(code: str, at: int) -> tuple[Any, ...]:
        return struct.unpack_from(order + code, data, at)

    if field("i", 0) != (_HEADER_SIZE,) or data[344:347] != b"n+1":
        raise ValueError("not a NIfTI-1 single file")
    rank, *sizes = field("8h", 40)
    dims = [n if axis < rank else 1 for axis, n in enumerate(sizes)]
    if min(dims) < 1 or max(dims[3:]) > 1:
        raise ValueError(f"of shape {tuple(dims)}, not one volume")
    width, height, depth = dims[:3]
    (datatype,) = field("h", 70)
    if datatype not in _DTYPES:
        raise ValueError(f"values of NIfTI type {datatype} are not read")
    slope, intercept = field("2f", 112)
    if slope == 0 or not np.isfinite((slope, intercept)).all():
        slope, intercept = 1.0, 0.0
    (offset,) = field("f", 108)
    if not 0 <= offset <= _LARGEST_OFFSET:
        raise ValueError(f"its voxels begin at byte {offset}")

    qform, sform = field("2h", 252)
    affine = np.eye(4)
    if sform > 0:
        affine[:3] = np.reshape(field("12f", 280), (3, 4))
    elif qform > 0:
        sign, *spacing = field("4f", 76)
        affine[:3, :3] = rotation_of(*field("3f", 256)) * spacing * np.array([1, 1, -1 if sign < 0 else 1])
        affine[:3, 3] = field("3f", 268)
    else:
        raise ValueError("it does not say where its voxels are: neither sform nor qform")
    (units,) = field("B", 123)
    affine[:3] *= _MM_OF_UNITS.get(units & _SPACE_UNITS, 1.0)
    lps = (np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)[:, [2, 1, 0, 3]]

    extensions = []
    rest = _read_bytes(stream, max(0, int(offset) - _VOXEL_OFFSET))
    at = 0
    while data[_HEADER_SIZE] and at + 8 <= len(rest):
        size, code = struct.unpack_from(order + "2i", rest, at)
        if size < 8:
            raise ValueError(f"a header extension of {size} bytes")
        extensions.append(Extension(code, rest[at + 8 : at + size].rstrip(b"\0")))
        at += size
    dtype = np.dtype(_DTYPES[datatype]).newbyteorder(order)
    return _Header(VolumeGeometry((depth, height, width), lps), dtype, slope, intercept, tuple(extensions))


def _read_bytes(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise ValueError(f"cut short: {size - len(data)} bytes are missing")
    return data


def read_to_end(stream: IO[bytes]) -> None:
    """Read what is left, so that the checksum at the end of a gzip stream is looked at."""
    while stream.read(_READ_STEP):
        pass


def rotation_of(b: float, c: float, d: float) -> NDArray[np.float64]:
    """Return the rotation matrix of a unit quaternion with a ≥ 0. Inverse of `quaternion`."""
    a = np.sqrt(max(0.0, 1 - b * b - c * c - d * d))
    return np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
