"""Headers and structure sets against pydicom, on one thread.

``python benchmarks/bench_header.py [FOLDER]``: the headers of FOLDER, by default of a synthetic CT series.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pydicom
from peers import pydicom as peer
from timing import OURS, Call, Report

from gpuprep.dicom.header import read_headers
from gpuprep.dicom.rtstruct import read_structure_set

ROUNDS = 7
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path)
    source = parser.parse_args().folder
    warnings.simplefilter("ignore")
    report = Report("header")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if source is not None:
            rows = read_headers([str(path) for path in source.rglob("*") if path.is_file()])
            paths = [row.path for row in rows if not row.error_code]
        else:
            paths = write_series(folder)
        headers = report.contest(
            "header of a file",
            {OURS: Call(lambda: read_headers(paths)), "pydicom": Call(lambda: peer.read_headers(paths))},
            ROUNDS,
            scale=len(paths),
        )
        report.figure("files", len(paths))
        points = write_structure_set(folder / "rs.dcm")
        contours = report.contest(
            "structure set",
            {
                OURS: Call(lambda: read_structure_set(str(folder / "rs.dcm"))),
                "pydicom": Call(lambda: peer.read_contours(folder / "rs.dcm")),
            },
            ROUNDS,
        )
        report.figure("points", points)
    report.demand("header of a file, CPU ratio", headers["pydicom"]["cpu_s_ratio"], at_least=HEADERS_AT_LEAST)
    report.demand("structure set, CPU ratio", contours["pydicom"]["cpu_s_ratio"], at_least=CONTOURS_AT_LEAST)
    return report.close()


if __name__ == "__main__":
    sys.exit(main())
