from pathlib import Path

import pytest

from gpuprep.config import LabelPatterns, OnMissing, RoiOptions, RoiStrategy
from gpuprep.dicom.roi_names import load_roi_patterns, match_rois
from gpuprep.errors import ConfigError, RoiError

LUNG_AND_GTV = (LabelPatterns("Lung", ("lung.*",)), LabelPatterns("GTV", ("gtv", "gross tumou?r")))
NAMES = ["GTV", "Lung_L", "lung_r", "Cord", "Gross Tumor"]


def rois_by_label(names, options):
    match = match_rois(names, options)
    return {label.name: label.rois for label in match.labels}, match.unmatched


def test_merge_takes_every_matching_roi_and_ignores_case():
    found, rest = rois_by_label(NAMES, RoiOptions(LUNG_AND_GTV))
    assert found == {"Lung": (1, 2), "GTV": (0, 4)}
    assert rest == (3,)


def test_the_whole_name_must_match():
    found, _ = rois_by_label(["GTV", "GTV_old", " Lung "], RoiOptions(LUNG_AND_GTV))
    assert found == {"Lung": (2,), "GTV": (0,)}


def test_case_sensitive():
    found, _ = rois_by_label(["Lung_L", "lung_r", "gtv"], RoiOptions(LUNG_AND_GTV, ignore_case=False))
    assert found == {"Lung": (1,), "GTV": (2,)}


def test_keep_first_goes_by_pattern_then_file_order():
    options = RoiOptions((LabelPatterns("T", ("b.*", "a.*")),), strategy=RoiStrategy.KEEP_FIRST)
    assert rois_by_label(["a1", "b2", "b1"], options)[0] == {"T": (1,)}


@pytest.mark.parametrize(("empty", "kept"), [((), 0), ((0,), 1), ((0, 1), 2), ((0, 1, 2), 0)])
def test_keep_first_keeps_an_empty_roi_only_where_no_other_matches(empty, kept):
    options = RoiOptions((LabelPatterns("GTV", ("gtv", "gtv.*")),), strategy=RoiStrategy.KEEP_FIRST)
    match = match_rois(["GTV", "gtv", "GTV_2"], options, empty)
    assert match.labels[0].rois == (kept,)
    assert match.labels[0].patterns == ("gtv.*" if kept == 2 else "gtv",)


def test_separate_makes_a_label_a_roi():
    options = RoiOptions(LUNG_AND_GTV, strategy=RoiStrategy.SEPARATE)
    assert [m.name for m in match_rois(NAMES, options).labels] == [
        "Lung__Lung_L",
        "Lung__lung_r",
        "GTV__GTV",
        "GTV__Gross Tumor",
    ]


def test_a_roi_may_serve_several_labels_unless_that_is_forbidden():
    labels = (LabelPatterns("Any", (".*",)), LabelPatterns("GTV", ("gtv",), optional=True))
    assert rois_by_label(["GTV"], RoiOptions(labels))[0] == {"Any": (0,), "GTV": (0,)}
    assert rois_by_label(["GTV"], RoiOptions(labels, allow_multiple_matches=False))[0] == {"Any": (0,), "GTV": ()}


def test_two_rois_of_one_name_stay_two():
    assert rois_by_label(["Lung", "Lung", "GTV"], RoiOptions(LUNG_AND_GTV))[0]["Lung"] == (0, 1)


def test_a_pattern_that_matched_is_reported():
    assert match_rois(NAMES, RoiOptions(LUNG_AND_GTV)).labels[1].patterns == ("gtv", "gross tumou?r")


def test_a_missing_label_ends_the_case_and_names_what_is_left_over():
    with pytest.raises(RoiError, match=r"'Lung'.*'Cord'") as caught:
        match_rois(["GTV", "Cord"], RoiOptions(LUNG_AND_GTV))
    assert caught.value.code == "label-missing"


@pytest.mark.parametrize("on_missing", [OnMissing.WARN, OnMissing.IGNORE])
def test_a_missing_label_may_be_empty_instead(on_missing):
    match = match_rois(["GTV"], RoiOptions(LUNG_AND_GTV, on_missing=on_missing))
    assert match.missing == ("Lung",)


def test_an_optional_label_may_be_missing():
    labels = (LUNG_AND_GTV[0], LabelPatterns("Boost", ("boost",), optional=True))
    assert match_rois(["Lung"], RoiOptions(labels)).missing == ("Boost",)


@pytest.mark.parametrize("on_missing", [OnMissing.ERROR, OnMissing.WARN])
def test_no_match_at_all_is_an_error(on_missing):
    with pytest.raises(RoiError) as caught:
        match_rois(["Cord"], RoiOptions(LUNG_AND_GTV, on_missing=on_missing))
    assert caught.value.code == "no-roi-matched"


def write_map(folder: Path, text: str) -> Path:
    path = folder / "rois.yaml"
    path.write_text(text)
    return path


def test_the_map_keeps_its_order_and_takes_all_three_forms(tmp_path):
    path = write_map(tmp_path, "GTV: gtv.*\nCord: [cord, spinal.*]\nBoost: {patterns: [b], optional: true}\n")
    assert load_roi_patterns(path) == (
        LabelPatterns("GTV", ("gtv.*",)),
        LabelPatterns("Cord", ("cord", "spinal.*")),
        LabelPatterns("Boost", ("b",), optional=True),
    )


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("GTV: [", "roi-map-unreadable"),
        ("- GTV", "roi-map-invalid"),
        ("", "roi-map-invalid"),
        ("GTV: []", "roi-map-invalid"),
        ("GTV: 3", "roi-map-invalid"),
        ("GTV: '(unclosed'", "roi-map-invalid"),
        ("background: air", "roi-map-invalid"),
        ("NO: nodes", "roi-map-invalid"),
        ("1: gtv", "roi-map-invalid"),
        ("GTV: a\nGTV: b", "roi-map-invalid"),
        ("GTV: {pattern: a}", "roi-map-invalid"),
        ("GTV: {patterns: a, optional: 2}", "roi-map-invalid"),
    ],
)
def test_a_wrong_map_is_refused(tmp_path, text, code):
    with pytest.raises(ConfigError) as caught:
        load_roi_patterns(write_map(tmp_path, text))
    assert caught.value.code == code


def test_a_missing_map_is_refused(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_roi_patterns(tmp_path / "none.yaml")
    assert caught.value.code == "roi-map-unreadable"
