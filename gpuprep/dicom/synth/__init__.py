"""Small synthetic studies with known answers: CT and PET series, doses, structure sets and segmentations.

`write_study` makes what the demo converts. The other functions are its building blocks, and those of tests that need a
series, a structure set or a segmentation with one peculiarity: `build_*` return a pydicom data set to be changed at
will, `write_*` write it. Everything is deterministic: equal arguments give equal files.
"""

from gpuprep.dicom.synth.elements import CT_STORAGE, ImageSeries, derive_uid, write_dataset
from gpuprep.dicom.synth.images import (
    CT_INTERCEPT_HU,
    axial_geometry,
    build_ct_slice,
    build_dose,
    build_pet_slice,
    plan_series,
    write_ct_series,
    write_pet_series,
    write_rtdose,
)
from gpuprep.dicom.synth.segmentations import SegmentSpec, build_segmentation, write_seg
from gpuprep.dicom.synth.structures import RoiSpec, build_structure_set, write_rtstruct
from gpuprep.dicom.synth.study import SyntheticPatient, ellipse_lps_mm, write_study

__all__ = [
    "CT_INTERCEPT_HU",
    "CT_STORAGE",
    "ImageSeries",
    "RoiSpec",
    "SegmentSpec",
    "SyntheticPatient",
    "axial_geometry",
    "build_ct_slice",
    "build_dose",
    "build_pet_slice",
    "build_segmentation",
    "build_structure_set",
    "derive_uid",
    "ellipse_lps_mm",
    "plan_series",
    "write_ct_series",
    "write_dataset",
    "write_pet_series",
    "write_rtdose",
    "write_rtstruct",
    "write_seg",
    "write_study",
]
