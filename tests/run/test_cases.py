"""Cases in memory, held to SimpleITK's reading of the same files and to masks drawn by hand."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cases as made
import fake_cuda
import numpy as np
import pytest
import SimpleITK as sitk

import gpuprep
from gpuprep.dicom import synth
from gpuprep.errors import ConfigError, InputNotFoundError
from gpuprep.run.cases import EVERY_ROI


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A CT with one ROI, a box of 4 × 6 pixels on slices 1 to 2, and a PET of another patient."""
    folder = tmp_path_factory.mktemp("study")
    random = np.random.default_rng(3)
    grid = synth.axial_geometry((5, 12, 16), spacing_xyz_mm=(2.0, 3.0, 4.0), origin_lps_mm=(-7.0, 11.0, 50.0))
    series = synth.write_ct_series(folder / "a", grid, random.integers(-1000, 3000, grid.shape), patient_id="P1")
    corners = [(2.5, 4.5), (2.5, 10.5), (6.5, 10.5), (6.5, 4.5)]
    box = [grid.to_lps([(d, h, w) for h, w in corners]) for d in (1, 2)]
    synth.write_rtstruct(folder / "a" / "RS.dcm", series, [synth.RoiSpec(1, "GTV 1", box)])
    synth.write_pet_series(folder / "b", grid, random.random(grid.shape) * 1e4, patient_id="P2")
    return folder


def test_a_case_is_what_another_reader_reads_with_the_contours_as_masks(study):
    (case,) = gpuprep.find_cases(study, "CT,RTSTRUCT")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(study / "a")))
    expected = reader.Execute()
    (image,) = case.images
    assert np.array_equal(image.array, sitk.GetArrayFromImage(expected))
    index = [(4, 3, 2), (0, 11, 15)]
    points = [expected.TransformIndexToPhysicalPoint((w, h, d)) for d, h, w in index]
    assert np.allclose(image.geometry.to_lps(index), points, atol=1e-6)
    inside = np.zeros(image.array.shape, np.uint8)
    inside[1:3, 3:7, 5:11] = 1
    assert [roi.name for roi in case.mask.rois] == ["GTV 1"]
    assert np.array_equal(case.mask.binary(0), inside)
    assert case.mask.geometry.same_grid(image.geometry)
    assert (case.patient, case.record["warnings"]) == ("P1", [])


def test_without_segmentation_each_volume_is_a_case(study):
    cases = gpuprep.find_cases([study], "CT,PT")
    assert {(c.patient, c.images[0].modality, c.mask) for c in cases} == {("P1", "CT", None), ("P2", "PT", None)}


def test_a_map_of_labels_and_transforms_shape_the_case(study, tmp_path):
    (tmp_path / "map.yaml").write_text("Tumour: gtv.*\nCord: {patterns: [cord], optional: true}\n")
    rois = gpuprep.RoiOptions(gpuprep.load_roi_patterns(str(tmp_path / "map.yaml")), strategy="merge")
    wanted = gpuprep.Transforms(spacing_xyz_mm=(1.0, 0.0, 0.0), crop=gpuprep.Crop("roi"), orientation="LPS")
    (case,) = gpuprep.find_cases(study, "CT,RTSTRUCT", rois=rois, transforms=wanted)
    assert case.images[0].array.shape == (2, 4, 11)
    assert [(roi.name, int(n)) for roi, n in zip(case.mask.rois, case.mask.voxel_counts, strict=True)] == [
        ("Tumour", 2 * 4 * 11),
        ("Cord", 0),
    ]


def test_a_case_stays_as_it_is_when_the_next_one_is_read(study):
    cases = gpuprep.find_cases(study, "CT,PT", threads=1)
    first = cases[0]
    before = first.images[0].array.copy()
    assert cases[1].images[0].array.tobytes() != before.tobytes()
    assert first.images[0].array.tobytes() == before.tobytes()


def test_cases_are_a_sequence_and_travel(study):
    cases = gpuprep.find_cases(study, "CT,PT")
    assert len(cases) == 2 and [p.case for p in cases[1:].plans] == [cases.plans[1].case]
    copy = pickle.loads(pickle.dumps(cases))
    assert copy[-1].images[0].array.tobytes() == cases[1].images[0].array.tobytes()
    with pytest.raises(IndexError):
        cases[2]


def test_what_fails_is_raised_when_it_is_taken_and_costs_that_case_alone(tmp_path):
    """One patient whole, one whose CT lacks a slice, one whose CT is not there at all."""
    patients = synth.write_study(tmp_path, patients=3)
    patients[1].series.paths[4].unlink()
    for path in patients[2].series.paths:
        path.unlink()
    cases = gpuprep.find_cases(tmp_path, "CT,RTSTRUCT")
    assert [p.code for p in cases.problems] == ["not-dicom"]
    found = {}
    for n, plan in enumerate(cases.plans):
        try:
            found[plan.patient] = cases[n].patient
        except gpuprep.CaseError as error:
            found[plan.patient] = error.code
            assert error.subject and error.hint
    assert found == {"SYNTH-001": "SYNTH-001", "SYNTH-002": "missing-slice", "SYNTH-003": "dangling-reference"}


def test_a_device_gives_the_arrays_of_the_cpu(tmp_path, monkeypatch):
    made.write_sources(tmp_path)
    how = {"rois": EVERY_ROI, "transforms": gpuprep.Transforms(spacing_xyz_mm=(2.0, 2.0, 2.5))}
    (expected,) = gpuprep.find_cases(tmp_path / "SYNTH-001", "CT,RTSTRUCT", **how)
    device = fake_cuda.install(monkeypatch)
    cases = gpuprep.find_cases(tmp_path / "SYNTH-001", "CT,RTSTRUCT", backend="cuda", **how)
    with ThreadPoolExecutor(1) as thread:  # each keeps its backends
        found = thread.submit(cases.__getitem__, 0).result()
    assert device.launched
    assert type(found.images[0].array) is np.ndarray
    assert found.images[0].array.tobytes() == expected.images[0].array.tobytes()
    assert found.mask.codes.tobytes() == expected.mask.codes.tobytes()


def test_the_example_of_the_readme_runs(tmp_path, monkeypatch):
    """On a study whose GTV is labelled by the example's own map."""
    synth.write_study(tmp_path / "dicoms")
    (tmp_path / "roi_patterns.yaml").write_text('GTV: ["gtv.*", "gross.*volume"]\n')
    monkeypatch.chdir(tmp_path)
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    example = readme.split("## In Python", 1)[1].split("```python\n", 1)[1].split("```", 1)[0]
    names: dict[str, Any] = {}
    exec(example.replace('"/data/dicoms"', '"dicoms"'), names)
    assert names["hu"].shape == names["gtv"].shape
    assert names["hu"].min() == -160  # air, clamped
    assert names["case"].mask.rois[0].name == "GTV"
    assert set(np.unique(names["gtv"])) == {0, 1}


@pytest.mark.parametrize(
    ("ask", "kind", "code"),
    [
        (lambda f: gpuprep.find_cases(f / "nowhere", "CT"), InputNotFoundError, "path-missing"),
        (lambda f: gpuprep.find_cases(f, "CT"), InputNotFoundError, "no-dicom-found"),
        (lambda f: gpuprep.find_cases(f, "XA"), ConfigError, "bad-modalities"),
        (lambda f: gpuprep.find_cases(f, "RTSTRUCT"), ConfigError, "bad-modalities"),
        (lambda f: gpuprep.find_cases(f, "CT,SEG", multiple="newest"), ConfigError, "unknown-choice"),
        (lambda _: gpuprep.RoiOptions((), strategy="join"), ConfigError, "unknown-choice"),
        (lambda _: gpuprep.RoiOptions((), strategy="separate", on_missing="skip"), ConfigError, "unknown-choice"),
        (lambda _: gpuprep.RoiOptions((), strategy="separate", contour_overlap="or"), ConfigError, "unknown-choice"),
        (lambda _: gpuprep.Transforms(interpolation="bspline"), ConfigError, "unknown-choice"),
        (lambda _: gpuprep.Transforms(pet="suvlbm"), ConfigError, "unknown-choice"),
        (lambda _: gpuprep.Stacking("ignore"), ConfigError, "unknown-choice"),
    ],
)
def test_what_makes_no_cases_is_refused(tmp_path, ask, kind, code):
    with pytest.raises(kind) as caught:
        ask(tmp_path)
    assert caught.value.code == code


def test_choices_may_be_given_by_their_names(study):
    rois = gpuprep.RoiOptions((), strategy="separate", on_missing="warn")
    assert rois.strategy is gpuprep.RoiStrategy.SEPARATE and rois.on_missing is gpuprep.OnMissing.WARN
    cases = gpuprep.find_cases(study, "CT,RTSTRUCT", rois=rois, multiple="merge")
    assert cases.options.multiple is gpuprep.MultipleSegmentations.MERGE
