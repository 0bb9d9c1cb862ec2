import json
import os
import subprocess

import numpy as np
import pytest
from mask_sets import random_mask

from gpuprep.codes import pack_bits
from gpuprep.config import LabelPatterns, MaskStrategy
from gpuprep.errors import ConfigError, OutputError
from gpuprep.writers.nnunet import (
    DatasetFolder,
    assign_splits,
    check_strategy,
    find_dataset,
    make_folds,
    make_region_table,
    read_palette,
    read_palette_table,
    write_dataset_json,
    write_palette,
    write_scripts,
)


def table(*sets, count=3):
    rows = np.zeros((len(sets), count), bool)
    for row, members in zip(rows, sets, strict=True):
        row[list(members)] = True
    return pack_bits(rows)


def test_compact_codes_number_singles_first_then_the_combinations_that_occur():
    # The worked example of the region mask: GTV bit 0, Cord bit 1, Parotid bit 2, seen 1, 2, 4, 5 and 7.
    first, second = table((), (0,), (1,), (2,), (0, 2)), table((), (0, 1, 2))
    regions = make_region_table(["GTV", "Cord", "Parotid_L"], [first, second], "compact")
    assert regions.sets == ((), (0,), (1,), (2,), (0, 2), (0, 1, 2))
    assert regions.dataset_labels() == {"background": 0, "GTV": [1, 4, 5], "Cord": [2, 5], "Parotid_L": [3, 4, 5]}
    assert regions.regions_class_order() == [1, 2, 3]
    assert regions.lut(second).tolist() == [0, 5]


@pytest.mark.parametrize("at", [30, -5])  # -5: in the checksum, behind all that is needed
def test_a_palette_comes_back_or_is_refused(tmp_path, at):
    mask, path = random_mask(40), tmp_path / "a.npy.gz"
    write_palette(path, mask, tmp_path)
    rows, codes, geometry = read_palette(path)
    assert np.array_equal(rows, mask.table) and np.array_equal(read_palette_table(path), mask.table)
    assert np.array_equal(codes, mask.codes) and geometry.same_grid(mask.geometry)
    content = bytearray(path.read_bytes())
    content[at] ^= 0x55
    path.write_bytes(content)
    with pytest.raises(OutputError) as caught:
        read_palette(path)
    assert caught.value.code == "palette-unreadable"


def test_the_order_of_the_cases_does_not_change_the_codes():
    tables = [table((), (1, 2)), table((), (0, 1)), table((), (0, 2), (0, 1, 2))]
    assert make_region_table("abc", tables, "compact") == make_region_table("abc", tables[::-1], "compact")


def test_bitmask_codes_declare_every_sum():
    regions = make_region_table(["GTV", "Cord", "Parotid_L"], [table((), (0, 2))], "bitmask")
    assert regions.dataset_labels() == {
        "background": 0,
        "GTV": [1, 3, 5, 7],
        "Cord": [2, 3, 6, 7],
        "Parotid_L": [4, 5, 6, 7],
    }
    assert regions.regions_class_order() == [1, 2, 4]
    assert regions.lut(table((), (0, 2), (0, 1, 2))).tolist() == [0, 5, 7]


def test_without_overlap_labels_are_plain_integers(tmp_path):
    regions = make_region_table(["a", "b"], [table((), (1,), count=2)], "compact")
    folder = DatasetFolder(tmp_path, 3, "X")
    path = write_dataset_json(
        folder, labels=[LabelPatterns("a", ("a",)), LabelPatterns("b", ("b",))], channels=["CT"],
        training_cases=2, regions=regions,
    )  # fmt: skip
    content = json.loads(path.read_text())
    assert content["labels"] == {"background": 0, "a": 1, "b": 2}
    assert "regions_class_order" not in content
    assert path == tmp_path / "nnUNet_raw" / "Dataset003_X" / "dataset.json"


@pytest.mark.parametrize("count", [31, 32, 33, 65])
def test_compact_codes_have_no_limit_of_one_word(count):
    everything = np.ones((1, count), bool)
    regions = make_region_table([f"r{i}" for i in range(count)], [pack_bits(everything)], "compact")
    assert regions.sets[-1] == tuple(range(count))
    assert len(regions.sets) == count + 2


def test_too_many_labels_for_bitmask_codes_are_refused_before_work_starts():
    labels = [LabelPatterns(f"r{i}", ("x",)) for i in range(16)]
    with pytest.raises(OutputError) as caught:
        check_strategy(MaskStrategy.REGION_MASK, labels, "bitmask")
    assert caught.value.code == "too-many-regions"
    check_strategy(MaskStrategy.REGION_MASK, labels, "compact")
    check_strategy(MaskStrategy.REGION_MASK, labels[:15], "bitmask")


@pytest.mark.parametrize(
    ("names", "strategy", "is_refused"),
    [
        (["GTV", "ignore"], MaskStrategy.SPARSE_MASK, False),
        (["GTV", "ignore"], MaskStrategy.REGION_MASK, True),
        (["ignore", "GTV"], MaskStrategy.LABEL_IMAGE, True),
    ],
)
def test_nnunets_ignore_label_has_its_place(names, strategy, is_refused):
    labels = [LabelPatterns(name, ("x",)) for name in names]
    if not is_refused:
        check_strategy(strategy, labels, "compact")
        return
    with pytest.raises(ConfigError) as caught:
        check_strategy(strategy, labels, "compact")
    assert caught.value.code == "ignore-label"


def test_a_rerun_finds_its_data_set_and_others_get_a_free_id(tmp_path):
    for name in ("Dataset001_A", "Dataset003_B"):
        (tmp_path / "nnUNet_raw" / name).mkdir(parents=True)
    assert find_dataset(tmp_path, name="B", number=None).number == 3
    assert find_dataset(tmp_path, name="C", number=None).number == 2
    with pytest.raises(ConfigError) as caught:
        find_dataset(tmp_path, name="C", number=3)
    assert caught.value.code == "bad-dataset-id"


def test_ids_have_three_digits(tmp_path):
    for number in range(1, 1000):
        (tmp_path / "nnUNet_raw" / f"Dataset{number:03d}_A{number}").mkdir(parents=True)
    for number in (None, 0, 1000):
        with pytest.raises(ConfigError) as caught:
            find_dataset(tmp_path, name="B", number=number)
        assert caught.value.code == "bad-dataset-id"


def test_splits_keep_patients_together_and_do_not_depend_on_order():
    patients = [f"p{i}" for i in range(10)]
    splits = assign_splits(patients * 3, test_ratio=0.25, seed=1)
    assert sorted(splits.values()).count("Ts") == 3
    assert splits == assign_splits(reversed(patients), test_ratio=0.25, seed=1)
    assert splits != assign_splits(patients, test_ratio=0.25, seed=2)


def test_folds_cover_every_case_once_and_share_no_patient():
    cases = {f"c{i}": f"p{i // 2}" for i in range(24)}
    folds = make_folds(cases, seed=0)
    assert sorted(len(f["val"]) for f in folds) == [4, 4, 4, 6, 6]  # of 12 patients with two cases each
    assert sorted(c for f in folds for c in f["val"]) == sorted(cases)
    for fold in folds:
        assert not {cases[c] for c in fold["train"]} & {cases[c] for c in fold["val"]}
        assert sorted(fold["train"] + fold["val"]) == sorted(cases)


def test_a_single_patient_cannot_be_split():
    assert make_folds({"a": "p", "b": "p"}, seed=0) == []


@pytest.mark.parametrize(("folds", "trained"), [(3, ["0", "1", "2"]), (0, ["all"])])
def test_the_scripts_run_each_fold_from_wherever_they_are_moved_to(tmp_path, folds, trained):
    write_scripts(DatasetFolder(tmp_path / "made", 7, "X"), folds)
    root = (tmp_path / "made").rename(tmp_path / "mo ved")
    for command in ("nnUNetv2_plan_and_preprocess", "nnUNetv2_train"):
        (tmp_path / command).write_text(
            f"#!/bin/sh\necho {command} $nnUNet_raw $nnUNet_preprocessed $nnUNet_results $*\n"
        )
        (tmp_path / command).chmod(0o755)
    folders = f"{root}/nnUNet_raw {root}/nnUNet_preprocessed {root}/nnUNet_results"
    lines = {
        "nnunet_preprocess.sh": [
            f"nnUNetv2_plan_and_preprocess {folders} -d 7 --verify_dataset_integrity -c 3d_fullres"
        ],
        "nnunet_train.sh": [f"nnUNetv2_train {folders} 7 3d_fullres {fold}" for fold in trained],
    }
    for script, expected in lines.items():
        path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        assert subprocess.check_output([root / script], text=True, env=path).splitlines() == expected
