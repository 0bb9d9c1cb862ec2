"""Headers and structure sets against pydicom: interleaved, medians of ratios, CPU time of one process.

usage: python benchmarks/bench_header.py [FOLDER]    headers of FOLDER, by default of a synthetic CT series
"""

from __future__ import annotations

import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import pydicom

from gpuprep import hostlib
from gpuprep.dicom.header import read_headers
from gpuprep.dicom.rtstruct import read_structure_set

REPETITIONS = 7
FILES, ROIS, SLICES, VERTICES = 200, 20, 80, 150
HEADERS_AT_LEAST, CONTOURS_AT_LEAST = 8.0, 50.0


def write_series(folder: Path) -> list[str]:
    """Copies of a CT slice of a hundred elements, private ones and sequences included; no pixels of note."""
    dataset = pydicom.Dataset()
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = "1.2", "1.2.3", "1.2.4"
    dataset.Modality, dataset.Manufacturer, dataset.PatientID = "CT", "a maker of scanners", "anonymous 1"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.PixelSpacing, dataset.SliceThickness = [0.7, 0.7], 1.5
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.Rows = dataset.Columns = 512
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    dataset.WindowCenter, dataset.WindowWidth = [40, 600], [400, 1500]
    dataset.add_new(0x00090010, "LO", "MAKER")
    for element in range(0x1001, 0x1029):
        dataset.add_new(0x00090000 | element, "LO", f"private value {element}")
    code = pydicom.Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "T-D4000", "SRT", "Abdomen"
    dataset.ProcedureCodeSequence = dataset.AnatomicRegionSequence = [code, code]
    for keyword in ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"):
        setattr(dataset, keyword, "20240102")
    for keyword in ("KVP", "DataCollectionDiameter", "ReconstructionDiameter", "ExposureTime", "TableHeight"):
        setattr(dataset, keyword, "120")
    for keyword in ("StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime"):
        setattr(dataset, keyword, "101112.000000")
    dataset.PixelData = bytes(512 * 512 * 2)
    paths = []
    for i in range(FILES):
        dataset.SOPInstanceUID, dataset.InstanceNumber = f"1.2.3.{i}", i
        dataset.ImagePositionPatient = [-179.2, -179.2, 1.5 * i]
        paths.append(str(folder / f"{i}.dcm"))
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        dataset.save_as(paths[-1], enforce_file_format=True)
    return paths


def write_structure_set(path: Path) -> int:
    """Write ellipses; return how many points they have."""
    dataset = pydicom.Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.481.3", "1.2.5"
    dataset.Modality, dataset.StructureSetLabel = "RTSTRUCT", "bench"
    dataset.StructureSetROISequence, dataset.ROIContourSequence = [], []
    angles = np.linspace(0, 2 * np.pi, VERTICES, endpoint=False)
    for number in range(1, ROIS + 1):
        roi, item = pydicom.Dataset(), pydicom.Dataset()
        roi.ROINumber, roi.ROIName, roi.ReferencedFrameOfReferenceUID = number, f"ROI {number}", "1.2.4"
        item.ReferencedROINumber, item.ContourSequence = number, []
        for z in range(SLICES):
            contour = pydicom.Dataset()
            contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", VERTICES
            xyz = zip(80.123 * np.cos(angles) + number, 60.456 * np.sin(angles) - number, strict=True)
            contour.ContourData = [f"{v:.4f}" for x, y in xyz for v in (x, y, 2.5 * z)]
            item.ContourSequence.append(contour)
        dataset.StructureSetROISequence.append(roi)
        dataset.ROIContourSequence.append(item)
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)
    return ROIS * SLICES * VERTICES


def read_contours_by_pydicom(path: Path) -> int:
    total = 0
    for item in pydicom.dcmread(path).ROIContourSequence:
        for contour in item.ContourSequence:
            total += len([float(number) for number in contour.ContourData])
    return total


def compare(name: str, unit: str, scale: float, ours: Callable[[], object], theirs: Callable[[], object]) -> float:
    """Print median CPU times and the median of their ratios; return the ratio."""
    times: list[tuple[float, float]] = []
    for _ in range(REPETITIONS + 1):
        pair = []
        for work in (ours, theirs):
            start = time.process_time()
            work()
            pair.append(time.process_time() - start)
        times.append((pair[0], pair[1]))
    times = times[1:]  # the first one warms up
    mine, other = (median(pair[i] for pair in times) * scale for i in (0, 1))
    ratio = median(pair[1] / pair[0] for pair in times)
    print(f"{name}: gpuprep {mine:.1f} {unit}, pydicom {other:.1f} {unit}, {ratio:.1f} times")
    return ratio


def main() -> int:
    warnings.simplefilter("ignore")
    print(
        f"{platform.processor() or platform.machine()}, {hostlib.usable_cores()} cores, library {hostlib.load()[1]}, "
        f"Python {platform.python_version()}, pydicom {pydicom.__version__}"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if len(sys.argv) > 1:
            rows = read_headers([str(path) for path in Path(sys.argv[1]).rglob("*") if path.is_file()])
            paths = [row.path for row in rows if not row.error_code]
        else:
            paths = write_series(folder)
        headers = compare(
            f"headers of {len(paths)} files",
            "us a file",
            1e6 / len(paths),
            lambda: read_headers(paths),
            lambda: [pydicom.dcmread(path, stop_before_pixels=True, force=True) for path in paths],
        )
        points = write_structure_set(folder / "rs.dcm")
        contours = compare(
            f"structure set of {points} points",
            "ms",
            1e3,
            lambda: read_structure_set(str(folder / "rs.dcm")),
            lambda: read_contours_by_pydicom(folder / "rs.dcm"),
        )
    return 0 if headers >= HEADERS_AT_LEAST and contours >= CONTOURS_AT_LEAST else 1


if __name__ == "__main__":
    sys.exit(main())
