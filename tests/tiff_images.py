"""Options of ``gpuprep tiff`` for tests, and DICOM images to convert."""

import subprocess

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from gpuprep.backends.cpu import CpuBackend
from gpuprep.cli.tiff import parse_tiff_options

CPU = CpuBackend()
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
DEFAULTS = {
    "crop": False, "crop_max": False, "crop_mode": None, "no_components": False, "border_frac": 0.0, "size": None,
    "spacing": None, "filter_name": "triangle", "padding": "zero", "no_padding": False, "compressor": "packbits",
    "predictor": None, "volume_handler": "keep", "target_frames": 32, "window": "voi", "layout": None, "compat": None,
}  # fmt: skip


def options_of(**chosen):
    return parse_tiff_options(**(DEFAULTS | chosen))


def write_image(path, frames, *, sop_class=SECONDARY_CAPTURE, bits=12, photometric="MONOCHROME2", **elements):
    """Write frames of shape (N, H, W) as a DICOM file."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, generate_uid(entropy_srcs=[path.name])
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.3", "1.2.3.4"
    ds.Modality, ds.PatientID, ds.PatientName = "MG", "P1", "Doe^Jane"
    ds.NumberOfFrames, ds.Rows, ds.Columns = frames.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, photometric
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = frames.itemsize * 8, bits, bits - 1
    ds.PixelRepresentation = int(frames.dtype.kind == "i")
    ds.PixelData = frames.tobytes()
    for name, value in elements.items():
        setattr(ds, name, value)
    pydicom.dcmwrite(path, ds, enforce_file_format=True)
    return path


def read_by_libtiff(path):
    """Have ``tiffinfo`` decode all pixels and return its listing; all it may remark on is the private tag."""
    done = subprocess.run(["tiffinfo", "-D", path], capture_output=True, text=True, check=False)
    remarks = [line for line in done.stderr.splitlines() if "Unknown field with tag 65000" not in line]
    assert (done.returncode, remarks) == (0, [])
    return done.stdout
