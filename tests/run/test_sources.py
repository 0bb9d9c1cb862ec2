"""What sources hold, and what of them no job can ask for."""

import numpy as np
import pyarrow as pa
import pydicom
import pytest

from gpuprep.dicom import synth
from gpuprep.errors import ConfigError, OutputError
from gpuprep.run.sources import load_index, open_sources


def test_a_series_without_modality_is_told_of(tmp_path):
    grid = synth.axial_geometry((3, 8, 8), spacing_xyz_mm=(1, 1, 2))
    for name in ("whole", "nameless"):
        planned = synth.write_ct_series(tmp_path / name, grid, np.zeros(grid.shape), patient_id=name)
    for path in planned.paths:
        dataset = pydicom.dcmread(path)
        del dataset.Modality
        dataset.save_as(path)
    sources = open_sources([tmp_path], index_path=None, workers=1)
    assert sorted(s.modality for s in sources.series) == ["", "CT"]
    (problem,) = sources.problems
    assert problem.code == "modality-missing"
    assert problem.path in map(str, planned.paths)
    assert problem.detail == "3 instances of its series lack Modality"


def test_a_series_of_screenshots_is_no_image_and_told_of(tmp_path):
    grid = synth.axial_geometry((3, 8, 8), spacing_xyz_mm=(1, 1, 2))
    for name in ("ct", "report"):
        planned = synth.write_ct_series(tmp_path / name, grid, np.zeros(grid.shape), patient_id=name)
    for path in planned.paths:
        dataset = pydicom.dcmread(path)
        del dataset.ImagePositionPatient, dataset.ImageOrientationPatient
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
        dataset.save_as(path)
    sources = open_sources([tmp_path], index_path=None, workers=1)
    assert {s.patient_id: s.is_image for s in sources.series} == {"ct": True, "report": False}
    (problem,) = sources.problems
    assert problem.code == "screenshot"
    assert problem.detail == "3 secondary captures without a place in the patient"


def test_what_only_claims_to_be_a_segmentation_is_told_of(tmp_path):
    grid = synth.axial_geometry((3, 8, 8), spacing_xyz_mm=(1, 1, 2))
    series = synth.write_ct_series(tmp_path, grid, np.zeros(grid.shape))
    surfaces = synth.build_segmentation(series, [synth.SegmentSpec(1, "skin", np.ones(grid.shape, bool))])
    surfaces.SOPClassUID = "1.2.840.10008.5.1.4.1.1.66.5"
    synth.write_dataset(surfaces, tmp_path / "surfaces")
    (problem,) = open_sources([tmp_path], index_path=None, workers=1).problems
    assert (problem.path, problem.code) == (str(tmp_path / "surfaces"), "sop-class-unsupported")
    assert problem.detail == "SEG of SOP class 1.2.840.10008.5.1.4.1.1.66.5"


def test_an_index_is_not_made_of_an_index(tmp_path):
    (tmp_path / "src").mkdir()
    load_index([tmp_path / "src"], index_path=tmp_path / "a.parquet", workers=1)
    with pytest.raises(ConfigError, match="taken as it is") as caught:
        load_index([tmp_path / "a.parquet"], index_path=tmp_path / "b.parquet", workers=1)
    assert caught.value.code == "two-indices" and "name the folders" in caught.value.hint


def test_an_index_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    (tmp_path / "src").mkdir()
    path = tmp_path / "folder" / "index.parquet"
    load_index([tmp_path / "src"], index_path=path, workers=1)
    before = path.read_bytes()

    def fail(table, file, **options):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pa.parquet, "write_table", fail)
    with pytest.raises(OutputError) as caught:
        load_index([tmp_path / "src"], index_path=path, workers=1)
    assert caught.value.code == "disk-full"
    assert [p.read_bytes() for p in path.parent.iterdir()] == [before]
