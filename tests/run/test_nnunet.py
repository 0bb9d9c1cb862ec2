import pytest

from gpuprep.config import LabelPatterns, MaskStrategy, OnExisting, Resources, RoiOptions, Stacking, Transforms
from gpuprep.dicom.synth import write_study
from gpuprep.errors import OutputError
from gpuprep.run.case import CaseOptions
from gpuprep.run.job import Execution
from gpuprep.run.nnunet import NnunetOptions, convert_to_nnunet
from gpuprep.run.sources import open_sources
from gpuprep.writers.nnunet import DatasetFolder, find_dataset


def test_an_id_that_two_runs_take_at_once_goes_to_one_of_them(tmp_path):
    write_study(tmp_path / "in", slices=4, size=16)
    output = tmp_path / "out"
    folder = find_dataset(output, name="B", number=None)
    DatasetFolder(output, folder.number, "A").raw.mkdir(parents=True)
    with pytest.raises(OutputError) as caught:
        convert_to_nnunet(
            open_sources([tmp_path / "in"], index_path=None, workers=1),
            folder,
            case_options=CaseOptions(Transforms(), Stacking(), RoiOptions((LabelPatterns("GTV", ("gtv",)),))),
            options=NnunetOptions(("CT",), ("RTSTRUCT",), MaskStrategy.LABEL_IMAGE),
            execution=Execution(OnExisting.SKIP, Resources("cpu")),
        )
    assert caught.value.code == "dataset-id-taken"
    assert [path.name for path in output.glob("*/*")] == ["Dataset001_A"]
    assert find_dataset(output, name="B", number=None).number == 2
