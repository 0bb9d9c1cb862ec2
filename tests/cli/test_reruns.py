"""A second run into a data set that is there: with other options, with other sources, after a killed one."""

import csv
import json
import shutil

import numpy as np
import pytest
from conversions import GRID, GTV_BOX, RAMP_HU, contours_of, write_images, write_map, write_structures

from gpuprep.dicom.synth import RoiSpec
from gpuprep.errors import ExitStatus
from gpuprep.run.job import interrupted
from gpuprep.run.ledger import Ledger

LAYOUTS = {
    "nnunet": ("nnunet", "-ms", "region_mask", "--dataset-name", "Set"),
    "volume": ("supervisely",),
    "plane": ("supervisely", "--layout", "plane", "--plane-masks", "instance"),
    "2d": ("medsegpy", "--format", "2d", "--splits", "train=1"),
    "3d": ("medsegpy", "--format", "3d", "--splits", "train=1"),
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    for patient in ("one", "two"):
        series = write_images(folder / patient, patient, values_hu=RAMP_HU)
        write_structures(folder / patient / "rs", series, [RoiSpec(1, "gtv", contours_of(GTV_BOX))])
    write_map(folder / "rois.yaml", {"GTV": "gtv"})
    return folder


def convert(gpuprep, sources, output, layout, *patients, options=()):
    rois = sources / "rois.yaml"
    paths = [sources / patient for patient in patients]
    return gpuprep(*LAYOUTS[layout], "-m", "CT,RTSTRUCT", "-ryaml", rois, "-j", 1, *options, *paths, output)


def data_files(output):
    """Paths and content of all images and masks, those kept for later labels included."""
    suffixes = (".gz", ".im", ".seg", ".h5")
    return {p.relative_to(output): p.read_bytes() for p in output.rglob("*") if p.is_file() and p.suffix in suffixes}


def open_ledger(output, layout):
    (path,) = output.rglob("ledger.sqlite")
    return Ledger(path, LAYOUTS[layout][0])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_case_that_a_killed_run_began_and_whose_source_is_gone_leaves_nothing(gpuprep, sources, tmp_path, layout):
    alone, both = tmp_path / "alone", tmp_path / "both"
    assert convert(gpuprep, sources, alone, layout, "one").status == ExitStatus.DONE
    assert convert(gpuprep, sources, both, layout, "one", "two").status == ExitStatus.DONE
    assert len(data_files(both)) == 2 * len(data_files(alone))
    ledger = open_ledger(both, layout)
    (row,) = (row for row in ledger.rows().values() if row.patient == "two")
    ledger.put(interrupted(Begun(row), None))
    ledger.close()
    result = convert(gpuprep, sources, both, layout, "one")
    assert result.status == ExitStatus.DONE, result.stderr
    assert "1 case is done already" in result.stderr
    assert data_files(both) == data_files(alone)


class Begun:
    """A plan as its row tells it."""

    def __init__(self, row):
        self.case, self.patient, self.key, self.subject = row.case, row.patient, row.key, row.subject


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_case_whose_files_were_deleted_is_done_again_or_dropped(gpuprep, sources, tmp_path, layout):
    convert(gpuprep, sources, tmp_path, layout, "one", "two")
    whole = data_files(tmp_path)
    ledger = open_ledger(tmp_path, layout)
    (row,) = (row for row in ledger.rows().values() if row.patient == "two")
    ledger.close()
    first, *others = row.outputs
    (tmp_path / first.path).unlink()
    if others:
        result = convert(gpuprep, sources, tmp_path, layout, "one")
        assert result.status == ExitStatus.OUTPUT
        assert "[outputs-missing]" in result.stderr and others[0].path in result.stderr
    assert convert(gpuprep, sources, tmp_path, layout, "one", "two").status == ExitStatus.DONE
    assert data_files(tmp_path) == whole
    for output in row.outputs:
        (tmp_path / output.path).unlink()
    assert convert(gpuprep, sources, tmp_path, layout, "one").status == ExitStatus.DONE
    assert {path.as_posix() for path in data_files(tmp_path)} == {
        path.as_posix() for path in whole
    } - {output.path for output in row.outputs}  # fmt: skip
    for report in tmp_path.rglob("dataset.json"):
        assert row.case not in report.read_text()


def test_the_index_of_files_lists_those_that_are_there(gpuprep, sources, tmp_path):
    command = ("nifti", "-m", "CT,RTSTRUCT", "--masks", "npz")
    gpuprep(*command, sources, tmp_path)
    shutil.rmtree(tmp_path / "two")
    assert gpuprep(*command, sources / "one", tmp_path).status == ExitStatus.DONE
    with (tmp_path / "index.csv").open(newline="") as file:
        listed = {row["path"] for row in csv.DictReader(file)}
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("one/*/*")}
    assert listed == written and len(listed) == 2


@pytest.mark.parametrize(("first", "second"), [("2d", "volume"), ("volume", "nnunet"), ("nnunet", "3d")])
def test_a_folder_of_another_command_is_left_alone(gpuprep, sources, tmp_path, first, second):
    convert(gpuprep, sources, tmp_path, first, "one")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for result in (
        convert(gpuprep, sources, tmp_path, second, "one"),
        gpuprep("nifti", sources, tmp_path),
        gpuprep("tiff", sources, tmp_path),
    ):
        assert result.status == ExitStatus.OUTPUT
        assert "[other-job]" in result.stderr and "hint: " in result.stderr
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_data_set_that_others_made_is_left_alone(gpuprep, sources, tmp_path):
    theirs = tmp_path / "nnUNet_raw" / "Dataset007_Set" / "dataset.json"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("{}")
    result = convert(gpuprep, sources, tmp_path, "nnunet", "one")
    assert result.status == ExitStatus.OUTPUT
    assert "[foreign-files]" in result.stderr and "--dataset-name" in result.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [theirs] and theirs.read_text() == "{}"


def test_another_strategy_leaves_nothing_of_the_first(gpuprep, sources, tmp_path):
    def convert_twice(*strategies):
        output = tmp_path / "-".join(strategies)
        for strategy in strategies:
            assert (
                convert(gpuprep, sources, output, "nnunet", "one", options=("-ms", strategy)).status == ExitStatus.DONE
            )
        return {p.relative_to(output).as_posix() for p in output.rglob("*") if p.is_file()}

    assert convert_twice("region_mask", "label_image") == convert_twice("label_image")
    assert convert_twice("label_image", "region_mask") == convert_twice("region_mask")


def test_channels_in_another_order_are_other_files(gpuprep, tmp_path):
    series = write_images(tmp_path / "in" / "CT", "one", values_hu=RAMP_HU)
    write_structures(tmp_path / "in" / "rs", series, [RoiSpec(1, "gtv", contours_of(GTV_BOX))])
    for modality, value in (("MR", 7.0), ("PT", 5.0)):
        write_images(tmp_path / "in" / modality, "one", values_hu=np.full(GRID.shape, value), edit=retag(modality))
    rois = write_map(tmp_path / "rois.yaml", {"GTV": "gtv"})

    def read_channels(modalities):
        command = ("nnunet", "-m", modalities, "--pet", "stored", "-ryaml", rois, "--dataset-name", "Set")
        result = gpuprep(*command, tmp_path / "in", tmp_path / "out")
        assert result.status == ExitStatus.DONE, result.stderr
        raw = tmp_path / "out" / "nnUNet_raw" / "Dataset001_Set"
        images = [p.read_bytes() for p in sorted((raw / "imagesTr").iterdir())]
        names = json.loads((raw / "dataset.json").read_text())["channel_names"]
        return dict(zip(names.values(), images, strict=True))

    first = read_channels("CT,MR,PT,RTSTRUCT")
    assert list(first) == ["CT", "MR", "PT"] and first["MR"] != first["PT"]
    assert read_channels("CT,PT,MR,RTSTRUCT") == first
    assert read_channels("CT,PT,RTSTRUCT") == {name: first[name] for name in ("CT", "PT")}


def retag(modality):
    """Make slices those of another series and modality."""

    def edit(data):
        data.Modality = modality
        data.SeriesInstanceUID += f".{ord(modality[0])}"
        data.SOPInstanceUID += f".{ord(modality[0])}"
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID

    return edit


def test_cases_of_other_options_that_are_not_given_again_are_not_mixed_in(gpuprep, sources, tmp_path):
    convert(gpuprep, sources, tmp_path, "nnunet", "one")
    before = data_files(tmp_path)
    result = convert(
        gpuprep, sources, tmp_path, "nnunet", "two", options=("--spacing", "2,2,2", "--test-set-ratio", "1")
    )
    assert result.status == ExitStatus.OUTPUT
    assert "[options-changed]" in result.stderr and "hint: " in result.stderr
    assert data_files(tmp_path) == before
    result = convert(gpuprep, sources, tmp_path, "nnunet", "one", "two", options=("--spacing", "2,2,2"))
    assert result.status == ExitStatus.DONE


def test_an_output_inside_the_source_is_no_input(gpuprep, sources, tmp_path):
    source = tmp_path / "in"
    shutil.copytree(sources, source)
    command = ("nifti", "-m", "CT,RTSTRUCT,SEG", "--masks", "dicomseg")
    for said in ("4 of 4 cases done", "4 cases are done already"):
        result = gpuprep(*command, source, source / "out")
        assert result.status == ExitStatus.DONE
        assert said in result.stderr
    report = json.loads((source / "out" / "gpuprep" / "report.json").read_text())
    assert [problem["path"] for problem in report["unusable_files"]] == [str(source / "rois.yaml")]
    result = gpuprep(*command, source, source)
    assert result.status == ExitStatus.CONFIG
    assert "[output-is-source]" in result.stderr
