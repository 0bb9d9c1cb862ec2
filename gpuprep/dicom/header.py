"""One row an instance: what the index keeps of a DICOM header.

Two readers fill the same row: the host library's, which tokenises the common case at memory speed, and pydicom's, for
everything else. Both deliver *raw texts*: the value of each element as it stands in the file (multiple values joined by
a backslash, padding stripped, binary numbers in decimal). `InstanceHeader` interprets them, in one place.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

Kind = Literal["text", "uid", "uids", "int", "float", "floats"]


def _column(tag: int | None, kind: Kind) -> Any:
    default = {"text": "", "uid": "", "uids": (), "int": None, "float": None, "floats": ()}[kind]
    return field(default=default, metadata={"tag": tag, "kind": kind})


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceHeader:
    """What the index knows of one file.

    A file that could not be read has an `error_code` and empty fields. Numbers that are absent or garbled are None;
    which of the two is told by `error_code` only where the value is needed. Lists keep the order of the file.
    `pixel_offset` and `pixel_length` are the bytes of native pixel data, or -1 and -1 for encapsulated or absent ones.
    `referenced_*` hold what an RTSTRUCT or SEG points to, at any depth, without repeats, in order of appearance.
    """

    path: str
    size: int = 0
    mtime_ns: int = 0
    error_code: str = ""
    error_detail: str = ""
    reader: str = ""
    pixel_offset: int = -1
    pixel_length: int = -1
    transfer_syntax_uid: str = _column(0x00020010, "uid")
    specific_character_set: str = _column(0x00080005, "text")
    image_type: str = _column(0x00080008, "text")
    sop_class_uid: str = _column(0x00080016, "uid")
    sop_instance_uid: str = _column(0x00080018, "uid")
    study_date: str = _column(0x00080020, "text")
    series_date: str = _column(0x00080021, "text")
    acquisition_date: str = _column(0x00080022, "text")
    content_date: str = _column(0x00080023, "text")
    acquisition_datetime: str = _column(0x0008002A, "text")
    study_time: str = _column(0x00080030, "text")
    series_time: str = _column(0x00080031, "text")
    acquisition_time: str = _column(0x00080032, "text")
    content_time: str = _column(0x00080033, "text")
    modality: str = _column(0x00080060, "text")
    manufacturer: str = _column(0x00080070, "text")
    series_description: str = _column(0x0008103E, "text")
    patient_id: str = _column(0x00100020, "text")
    slice_thickness_mm: float | None = _column(0x00180050, "float")
    echo_time_ms: float | None = _column(0x00180081, "float")
    echo_numbers: str = _column(0x00180086, "text")
    spacing_between_slices_mm: float | None = _column(0x00180088, "float")
    trigger_time_ms: float | None = _column(0x00181060, "float")
    gantry_tilt_deg: float | None = _column(0x00181120, "float")
    imager_pixel_spacing_mm: tuple[float, ...] = _column(0x00181164, "floats")
    diffusion_b_value: float | None = _column(0x00189087, "float")
    study_instance_uid: str = _column(0x0020000D, "uid")
    series_instance_uid: str = _column(0x0020000E, "uid")
    series_number: int | None = _column(0x00200011, "int")
    acquisition_number: int | None = _column(0x00200012, "int")
    instance_number: int | None = _column(0x00200013, "int")
    image_position_lps_mm: tuple[float, ...] = _column(0x00200032, "floats")
    image_orientation: tuple[float, ...] = _column(0x00200037, "floats")
    frame_of_reference_uid: str = _column(0x00200052, "uid")
    temporal_position: int | None = _column(0x00200100, "int")
    samples_per_pixel: int | None = _column(0x00280002, "int")
    photometric_interpretation: str = _column(0x00280004, "text")
    planar_configuration: int | None = _column(0x00280006, "int")
    number_of_frames: int | None = _column(0x00280008, "int")
    rows: int | None = _column(0x00280010, "int")
    columns: int | None = _column(0x00280011, "int")
    pixel_spacing_mm: tuple[float, ...] = _column(0x00280030, "floats")
    bits_allocated: int | None = _column(0x00280100, "int")
    bits_stored: int | None = _column(0x00280101, "int")
    high_bit: int | None = _column(0x00280102, "int")
    pixel_representation: int | None = _column(0x00280103, "int")
    pixel_padding_value: int | None = _column(0x00280120, "int")
    pixel_padding_range_limit: int | None = _column(0x00280121, "int")
    window_center: tuple[float, ...] = _column(0x00281050, "floats")
    window_width: tuple[float, ...] = _column(0x00281051, "floats")
    rescale_intercept: float | None = _column(0x00281052, "float")
    rescale_slope: float | None = _column(0x00281053, "float")
    units: str = _column(0x00541001, "text")
    structure_set_label: str = _column(0x30060002, "text")
    structure_set_date: str = _column(0x30060008, "text")
    structure_set_time: str = _column(0x30060009, "text")
    referenced_frame_of_reference_uids: tuple[str, ...] = _column(None, "uids")
    referenced_series_uids: tuple[str, ...] = _column(None, "uids")
    referenced_sop_instance_uids: tuple[str, ...] = _column(None, "uids")

    @property
    def is_native(self) -> bool:
        """Whether the pixel data is native (uncompressed) and its place in the file is known."""
        return self.pixel_offset >= 0


#: The columns that come from DICOM elements, in the order in which both readers deliver their raw texts.
ELEMENT_COLUMNS = tuple(f for f in fields(InstanceHeader) if "kind" in f.metadata)
#: Their tags; None for the three collected reference columns, which are last.
ELEMENT_TAGS = tuple(f.metadata["tag"] for f in ELEMENT_COLUMNS)
