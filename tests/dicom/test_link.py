from pathlib import Path

import numpy as np
import pydicom
import pytest

from gpuprep.dicom import synth
from gpuprep.dicom.index import build_index
from gpuprep.dicom.link import link

SPACING_MM = 2.5
GRID = synth.axial_geometry((6, 12, 10), spacing_xyz_mm=(1.0, 1.0, SPACING_MM))


def _write_ct(folder, name="CT", *, geometry=GRID, patient_id="P1"):
    """Write a series; those of one patient share study and frame of reference, and differ by name."""
    array = np.zeros(geometry.shape, np.int16)
    return synth.write_ct_series(folder / name, geometry, array, series=name, patient_id=patient_id)


def _build_rtstruct(series, slices=(1, 2, 3), shift_mm=0.0):
    shift = np.array((0, 0, shift_mm))
    contours = [synth.ellipse_lps_mm(series.geometry, d, (0, 0, 0), (3, 2)) + shift for d in slices]
    return synth.build_structure_set(series, [synth.RoiSpec(1, "roi", contours)])


def _build_seg(series, kind="BINARY", geometry=None):
    mask = np.zeros((geometry or series.geometry).shape, bool)
    mask[1:3, 2:5, 2:5] = True
    return synth.build_segmentation(series, [synth.SegmentSpec(1, "segment", mask)], kind=kind, geometry=geometry)


def _drop_series_uid(data):
    if data.Modality == "SEG":
        # What older writers leave: the source images, frame by frame.
        instances = data.ReferencedSeriesSequence[0].ReferencedInstanceSequence
        del data.ReferencedSeriesSequence
        data.SourceImageSequence = instances
    else:
        study = data.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
        del study.RTReferencedSeriesSequence[0].SeriesInstanceUID


def _drop_instance_uids(data):
    if data.Modality == "SEG":
        del data.ReferencedSeriesSequence
        return
    del data.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence
    for roi in data.ROIContourSequence:
        for contour in roi.ContourSequence:
            del contour.ContourImageSequence


def _set_frame(data, uid):
    if data.Modality == "SEG":
        data.FrameOfReferenceUID = uid
        return
    data.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID = uid
    for roi in data.StructureSetROISequence:
        roi.ReferencedFrameOfReferenceUID = uid


def _link(folder, *segmentations):
    for number, data in enumerate(segmentations):
        synth.write_dataset(data, folder / f"segmentation{number}")
    return link(build_index([folder]).series())


def _the_link(result):
    assert result.problems == ()
    (found,) = result.links
    return found


def _the_problem(result):
    assert result.links == ()
    (problem,) = result.problems
    assert Path(problem.subject).name == "segmentation0"
    return problem


def _codes(found):
    return [finding.code for finding in found.findings]


BUILDERS = pytest.mark.parametrize("build", [_build_rtstruct, _build_seg])


# --- By series UID ---------------------------------------------------------------------------------------------------


@BUILDERS
def test_the_referenced_series_is_found(tmp_path, build):
    series = _write_ct(tmp_path)
    _write_ct(tmp_path, "another")
    found = _the_link(_link(tmp_path, build(series)))
    assert (found.image_series_uid, found.evidence) == (series.series_instance_uid, "series-uid")
    assert found.segmentation.path == str(tmp_path / "segmentation0")
    assert found.findings == ()


@BUILDERS
def test_a_segmentation_in_the_folder_of_its_image_is_linked(tmp_path, build):
    series = _write_ct(tmp_path)
    synth.write_dataset(build(series), tmp_path / "CT" / "IM0000")
    found = _the_link(link(build_index([tmp_path]).series()))
    assert found.image_series_uid == series.series_instance_uid


def test_a_series_spread_over_folders_is_one_image(tmp_path):
    series = _write_ct(tmp_path)
    (tmp_path / "more").mkdir()
    for path in series.paths[:3]:
        path.rename(tmp_path / "more" / path.name)
    found = _the_link(_link(tmp_path, _build_rtstruct(series)))
    assert (found.image_series_uid, found.findings) == (series.series_instance_uid, ())


def test_several_segmentations_of_one_image_are_all_linked(tmp_path):
    series = _write_ct(tmp_path)
    kinds = ("BINARY", "FRACTIONAL", "LABELMAP")
    result = _link(tmp_path, *(_build_seg(series, kind) for kind in kinds), _build_rtstruct(series))
    assert result.problems == ()
    assert len({found.segmentation.path for found in result.links}) == 4
    assert {found.image_series_uid for found in result.links} == {series.series_instance_uid}


def test_absent_instances_of_the_referenced_series_are_a_finding(tmp_path):
    series = _write_ct(tmp_path)
    for path in series.paths[:4]:
        path.unlink()
    found = _the_link(_link(tmp_path, _build_rtstruct(series)))
    assert found.evidence == "series-uid"
    assert _codes(found) == ["referenced-instances-missing"]
    assert found.findings[0].message.startswith("4 of 6 ")


def test_of_two_referenced_series_the_one_with_the_referenced_instances_counts(tmp_path):
    series, other = _write_ct(tmp_path), _write_ct(tmp_path, "other")
    data = _build_seg(series)
    second = pydicom.Dataset()
    second.SeriesInstanceUID = other.series_instance_uid
    data.ReferencedSeriesSequence.append(second)
    assert _the_link(_link(tmp_path, data)).image_series_uid == series.series_instance_uid


@BUILDERS
def test_series_uid_and_instances_that_disagree_are_ambiguous(tmp_path, build):
    series, other = _write_ct(tmp_path), _write_ct(tmp_path, "other")
    data = build(series)
    if data.Modality == "SEG":
        data.ReferencedSeriesSequence[0].SeriesInstanceUID = other.series_instance_uid
    else:
        study = data.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
        study.RTReferencedSeriesSequence[0].SeriesInstanceUID = other.series_instance_uid
    assert _the_problem(_link(tmp_path, data)).code == "ambiguous-reference"


def test_two_referenced_series_are_ambiguous_and_both_are_named(tmp_path):
    series, other = _write_ct(tmp_path), _write_ct(tmp_path, "other")
    data = _build_seg(series)
    data.ReferencedSeriesSequence.append(_build_seg(other).ReferencedSeriesSequence[0])
    problem = _the_problem(_link(tmp_path, data))
    assert problem.code == "ambiguous-reference"
    assert series.series_instance_uid in problem.message
    assert other.series_instance_uid in problem.message
    assert problem.hint


def test_a_structure_set_that_shares_the_series_uid_of_its_image_is_linked(tmp_path):
    series = _write_ct(tmp_path)
    data = _build_rtstruct(series)
    data.SeriesInstanceUID = series.series_instance_uid
    assert _the_link(_link(tmp_path, data)).image_series_uid == series.series_instance_uid


@BUILDERS
@pytest.mark.parametrize(("absent", "more"), [(0, []), (3, ["referenced-instances-missing"])])
def test_another_frame_of_reference_is_accepted_where_half_of_the_instances_agree(tmp_path, build, absent, more):
    series = _write_ct(tmp_path)
    data = build(series)
    for path in series.paths[:absent]:
        path.unlink()
    _set_frame(data, "1.2.3")
    found = _the_link(_link(tmp_path, data))
    assert found.evidence == "series-uid"
    assert _codes(found) == ["frame-of-reference-mismatch", *more]


def test_another_frame_of_reference_is_refused_where_fewer_instances_agree(tmp_path):
    series = _write_ct(tmp_path)
    data = _build_rtstruct(series)
    for path in series.paths[:4]:
        path.unlink()
    _set_frame(data, "1.2.3")
    assert _the_problem(_link(tmp_path, data)).code == "frame-of-reference-mismatch"


def test_another_frame_of_reference_and_no_known_instance_is_refused(tmp_path):
    series = _write_ct(tmp_path)
    data = _build_seg(series)
    _set_frame(data, "1.2.3")
    del data.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    problem = _the_problem(_link(tmp_path, data))
    assert problem.code == "frame-of-reference-mismatch"
    assert "1.2.3" in problem.message


# --- By SOP instance UIDs --------------------------------------------------------------------------------------------


@BUILDERS
def test_without_series_uid_the_referenced_instances_tell(tmp_path, build):
    series = _write_ct(tmp_path)
    _write_ct(tmp_path, "another")
    data = build(series)
    _drop_series_uid(data)
    found = _the_link(_link(tmp_path, data))
    assert (found.image_series_uid, found.evidence) == (series.series_instance_uid, "sop-instance-uids")


def test_the_first_referenced_instance_may_be_absent(tmp_path):
    series = _write_ct(tmp_path)
    series.paths[0].unlink()
    data = _build_rtstruct(series)
    _drop_series_uid(data)
    found = _the_link(_link(tmp_path, data))
    assert found.evidence == "sop-instance-uids"
    assert _codes(found) == ["referenced-instances-missing"]


def test_a_minority_of_referenced_instances_is_not_enough(tmp_path):
    series = _write_ct(tmp_path)
    for path in series.paths[:4]:
        path.unlink()
    data = _build_seg(series)
    _drop_series_uid(data)
    _set_frame(data, "1.2.3")
    assert _the_problem(_link(tmp_path, data)).code == "dangling-reference"


def test_instances_of_two_series_are_ambiguous(tmp_path):
    series, other = _write_ct(tmp_path), _write_ct(tmp_path, "other")
    data = _build_seg(series)
    _drop_series_uid(data)
    data.SourceImageSequence.append(_build_seg(other).ReferencedSeriesSequence[0].ReferencedInstanceSequence[0])
    assert _the_problem(_link(tmp_path, data)).code == "ambiguous-reference"


# --- By frame of reference and planes --------------------------------------------------------------------------------


@BUILDERS
def test_without_any_uid_frame_of_reference_and_planes_tell(tmp_path, build):
    series = _write_ct(tmp_path)
    _write_ct(tmp_path / "P2", patient_id="P2")
    data = build(series)
    _drop_instance_uids(data)
    found = _the_link(_link(tmp_path, data))
    assert (found.image_series_uid, found.evidence) == (series.series_instance_uid, "frame-of-reference")
    assert "0.00 mm" in found.detail


def test_cropped_copies_with_new_uids_are_found_by_their_planes(tmp_path):
    series = _write_ct(tmp_path / "original")
    data = _build_rtstruct(series)
    for path in series.paths:
        path.unlink()
    cropped = _write_ct(tmp_path, "cropped", geometry=series.geometry.crop((1, 0, 0), (4, 12, 10)))
    found = _the_link(_link(tmp_path, data))
    assert (found.image_series_uid, found.evidence) == (cropped.series_instance_uid, "frame-of-reference")
    assert _codes(found) == ["referenced-instances-missing"]


@BUILDERS
def test_of_several_series_in_the_frame_the_one_with_these_planes_is_meant(tmp_path, build):
    series = _write_ct(tmp_path)
    shifted = series.geometry.crop((0.4, 0, 0), GRID.shape)  # 1 mm off: within half a slice
    _write_ct(tmp_path, "shifted", geometry=shifted)
    _write_ct(tmp_path, "elsewhere", geometry=series.geometry.crop((20, 0, 0), GRID.shape))
    sagittal = series.geometry.reoriented((2, 0, 1), (False, False, False))
    _write_ct(tmp_path, "sagittal", geometry=sagittal)
    data = build(series)
    _drop_instance_uids(data)
    assert _the_link(_link(tmp_path, data)).image_series_uid == series.series_instance_uid


@BUILDERS
def test_two_series_on_the_same_planes_are_ambiguous(tmp_path, build):
    series, other = _write_ct(tmp_path), _write_ct(tmp_path, "other")
    data = build(series)
    _drop_instance_uids(data)
    problem = _the_problem(_link(tmp_path, data))
    assert problem.code == "ambiguous-reference"
    assert {series.series_instance_uid, other.series_instance_uid} <= set(problem.message.replace(",", "").split())


def test_the_series_of_the_same_study_goes_first(tmp_path):
    series = _write_ct(tmp_path)
    _write_ct(tmp_path / "P2", patient_id="P2", geometry=series.geometry)  # same frame of reference, another study
    data = _build_rtstruct(series)
    _drop_instance_uids(data)
    assert _the_link(_link(tmp_path, data)).image_series_uid == series.series_instance_uid


def test_a_series_of_another_study_is_found_where_its_own_has_none(tmp_path):
    series = _write_ct(tmp_path)
    data = _build_rtstruct(series)
    _drop_instance_uids(data)
    data.StudyInstanceUID = "1.2.3"
    assert _the_link(_link(tmp_path, data)).image_series_uid == series.series_instance_uid


@pytest.mark.parametrize(("shift_mm", "is_linked"), [(1.2, True), (-1.2, True), (1.3, False), (-1.3, False)])
@pytest.mark.parametrize("depth", [1, GRID.shape[0]])
def test_contours_lie_within_half_a_slice_of_the_planes(tmp_path, shift_mm, is_linked, depth):
    series = _write_ct(tmp_path, geometry=GRID.crop((0, 0, 0), (depth, *GRID.shape[1:])))
    end = 0 if shift_mm < 0 else depth - 1
    data = _build_rtstruct(series, slices=(end,), shift_mm=shift_mm)
    _drop_instance_uids(data)
    result = _link(tmp_path, data)
    assert len(result.links) == is_linked
    assert [p.code for p in result.problems] == ([] if is_linked else ["dangling-reference"])


@pytest.mark.parametrize(("rise_mm", "is_linked"), [(2.4, True), (2.6, False), (2 * SPACING_MM, False)])
def test_contours_across_the_planes_do_not_fit(tmp_path, rise_mm, is_linked):
    series = _write_ct(tmp_path)
    data = _build_rtstruct(series)
    _drop_instance_uids(data)
    points = [[0, 0, 0], [0, 4, 0], [0, 4, rise_mm], [0, 0, rise_mm]]
    data.ROIContourSequence[0].ContourSequence[0].ContourData = [float(v) for point in points for v in point]
    data.ROIContourSequence[0].ContourSequence[0].NumberOfContourPoints = 4
    result = _link(tmp_path, data)
    assert len(result.links) == is_linked
    assert [p.code for p in result.problems] == ([] if is_linked else ["dangling-reference"])


@pytest.mark.parametrize(
    ("kind", "points"),
    [
        ("POINT", [[3, 4, 1.1]]),  # an isocentre between the slices: no more than that
        ("POINT", [[3, 4, 500]]),
        ("OPEN_NONPLANAR", [[0, 0, 0], [1, 1, 3 * SPACING_MM], [2, 2, 5 * SPACING_MM]]),  # a catheter
    ],
)
def test_points_and_paths_need_not_lie_on_the_planes(tmp_path, kind, points):
    series = _write_ct(tmp_path)
    _write_ct(tmp_path, "shifted", geometry=series.geometry.crop((0.4, 0, 0), GRID.shape))
    contours = [synth.ellipse_lps_mm(series.geometry, 2, (0, 0, 0), (3, 2))]
    rois = [synth.RoiSpec(1, "roi", contours), synth.RoiSpec(2, "other", [np.array(points)], kind)]
    data = synth.build_structure_set(series, rois)
    _drop_instance_uids(data)
    found = _the_link(_link(tmp_path, data))
    assert (found.image_series_uid, found.detail) == (
        series.series_instance_uid,
        "1 contours or frames lie on its planes, at most 0.00 mm off",
    )


def test_contours_of_another_frame_of_reference_need_not_lie_on_the_planes(tmp_path):
    series = _write_ct(tmp_path)
    contours = [synth.ellipse_lps_mm(series.geometry, 2, (0, 0, 0), (3, 2))]
    rois = [synth.RoiSpec(1, "roi", contours), synth.RoiSpec(2, "on the MR", [contours[0] + (0, 0, 700)])]
    data = synth.build_structure_set(series, rois)
    _drop_instance_uids(data)
    data.StructureSetROISequence[1].ReferencedFrameOfReferenceUID = "1.2.3"
    assert _the_link(_link(tmp_path, data)).image_series_uid == series.series_instance_uid


def test_a_structure_set_without_contours_gives_no_planes(tmp_path):
    data = _build_rtstruct(_write_ct(tmp_path), slices=())
    _drop_instance_uids(data)
    assert _the_problem(_link(tmp_path, data)).code == "dangling-reference"


def test_planes_that_cannot_be_read_are_named(tmp_path):
    data = _build_seg(_write_ct(tmp_path))
    _drop_instance_uids(data)
    del data.PerFrameFunctionalGroupsSequence
    assert _the_problem(_link(tmp_path, data)).code == "segmentation-unreadable"


# --- What is no image of a segmentation ------------------------------------------------------------------------------


@BUILDERS
def test_an_absent_series_is_dangling_and_what_was_referenced_is_named(tmp_path, build):
    series = _write_ct(tmp_path / "elsewhere")
    here = tmp_path / "here"
    _write_ct(here, patient_id="P2")
    problem = _the_problem(_link(here, build(series)))
    assert problem.code == "dangling-reference"
    assert series.series_instance_uid in problem.message
    assert series.sop_instance_uids[0] in problem.message
    assert series.geometry.frame_of_reference_uid in problem.message
    assert problem.hint


@BUILDERS
def test_a_segmentation_alone_is_dangling(tmp_path, build):
    series = synth.plan_series(GRID)
    assert _the_problem(_link(tmp_path, build(series))).code == "dangling-reference"


@BUILDERS
def test_a_segmentation_without_references_is_named(tmp_path, build):
    data = build(_write_ct(tmp_path))
    _drop_instance_uids(data)
    if data.Modality == "SEG":
        del data.FrameOfReferenceUID
    else:
        del data.ReferencedFrameOfReferenceSequence
        del data.StructureSetROISequence[0].ReferencedFrameOfReferenceUID
    assert _the_problem(_link(tmp_path, data)).code == "unreferenced-segmentation"


def test_localizers_are_no_image(tmp_path):
    series = _write_ct(tmp_path)
    for path in series.paths:
        data = pydicom.dcmread(path)
        data.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        data.save_as(path)
    assert _the_problem(_link(tmp_path, _build_rtstruct(series))).code == "dangling-reference"


def test_a_localizer_in_the_series_does_not_hide_its_planes(tmp_path):
    series = _write_ct(tmp_path)
    localizer = pydicom.dcmread(series.paths[0])
    localizer.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    localizer.SOPInstanceUID = "1.2.3"
    localizer.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    localizer.save_as(tmp_path / "CT" / "A_first")
    data = _build_rtstruct(series)
    _drop_instance_uids(data)
    assert _the_link(_link(tmp_path, data)).evidence == "frame-of-reference"


def test_a_segmentation_of_a_segmentation_is_dangling(tmp_path):
    series = synth.plan_series(GRID)
    first = _build_seg(series)
    second = _build_seg(series)
    second.SOPInstanceUID = "1.2.3"
    second.SeriesInstanceUID = "1.2.4"
    second.ReferencedSeriesSequence[0].SeriesInstanceUID = first.SeriesInstanceUID
    second.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID = first.SOPInstanceUID
    result = _link(tmp_path, first, second)
    assert [p.code for p in result.problems] == ["dangling-reference"] * 2


def test_an_image_series_that_mixes_patients_is_refused(tmp_path):
    series = _write_ct(tmp_path)
    data = pydicom.dcmread(series.paths[0])
    data.PatientID = "P2"
    data.save_as(series.paths[0])
    assert _the_problem(_link(tmp_path, _build_rtstruct(series))).code == "conflicting-patient-ids"


def test_another_patient_id_is_a_finding(tmp_path):
    data = _build_rtstruct(_write_ct(tmp_path))
    data.PatientID = "P2"
    assert _codes(_the_link(_link(tmp_path, data))) == ["patient-id-mismatch"]


def test_one_bad_segmentation_costs_no_other(tmp_path):
    series = _write_ct(tmp_path)
    bad = _build_seg(series)
    _drop_instance_uids(bad)
    bad.FrameOfReferenceUID = ""
    result = _link(tmp_path, bad, _build_rtstruct(series))
    assert [Path(p.subject).name for p in result.problems] == ["segmentation0"]
    assert [Path(found.segmentation.path).name for found in result.links] == ["segmentation1"]


def test_no_series_give_no_links():
    result = link(())
    assert (result.links, result.problems) == ((), ())


# --- Real studies ----------------------------------------------------------------------------------------------------


def _links_by_path(*folders):
    result = link(build_index(folders).series())
    assert result.problems == ()
    return {Path(found.segmentation.path): found for found in result.links}


@pytest.mark.parametrize("patient", ["STS_002", "STS_025"])
def test_cropped_studies_are_linked_to_the_series_beside_the_structure_set(data_dir, patient):
    folder = data_dir / "ct-rtstruct" / f"ibsi_{patient.lower()}" / "dicom" / patient
    links = _links_by_path(folder)
    assert len(links) == 3
    for path, found in links.items():
        image = next(path.parents[1].glob("image/*"))
        assert found.image_series_uid == pydicom.dcmread(image, stop_before_pixels=True).SeriesInstanceUID
        assert found.evidence == "series-uid"
        assert _codes(found) == ["referenced-instances-missing"]


@pytest.mark.parametrize("patient", ["STS_002", "STS_025"])
@pytest.mark.parametrize("modality", ["CT", "MR_T1", "PET"])
def test_cropped_studies_without_series_uid_are_linked_by_planes(data_dir, tmp_path, patient, modality):
    folder = data_dir / "ct-rtstruct" / f"ibsi_{patient.lower()}" / "dicom" / patient
    data = pydicom.dcmread(folder / modality / "mask" / "RS.dcm")
    study = data.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    study.RTReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.3"
    synth.write_dataset(data, tmp_path / "segmentation0")

    found = _the_link(link(build_index([folder / modality / "image", tmp_path]).series()))
    image = pydicom.dcmread(next((folder / modality / "image").iterdir()), stop_before_pixels=True)
    assert (found.image_series_uid, found.evidence) == (image.SeriesInstanceUID, "frame-of-reference")

    # CT, MR and PET of these studies lie on the same planes: nothing tells which one was meant.
    images = [folder / name / "image" for name in ("CT", "MR_T1", "PET")]
    assert _the_problem(link(build_index([*images, tmp_path]).series())).code == "ambiguous-reference"


def test_missing_and_invalid_references_of_rt_utils(data_dir):
    links = _links_by_path(data_dir / "ct-rtstruct" / "rt_utils_mock")
    assert {path.name: (found.evidence, _codes(found)) for path, found in links.items()} == {
        "rt.dcm": ("series-uid", ["frame-of-reference-mismatch"]),
        "invalid_reference_rt.dcm": ("series-uid", ["referenced-instances-missing"]),
        "non_existent_reference_rt.dcm": ("sop-instance-uids", ["referenced-instances-missing"]),
    }
    image = pydicom.dcmread(data_dir / "ct-rtstruct" / "rt_utils_mock" / "mock_data" / "ct_1.dcm")
    assert {found.image_series_uid for found in links.values()} == {image.SeriesInstanceUID}


def test_segmentations_of_real_series_are_linked_to_what_they_reference(data_dir):
    sources = data_dir / "ct-seg", data_dir / "ct-rtstruct" / "ibsi_sts_002" / "dicom" / "STS_002" / "CT" / "image"
    links = _links_by_path(*sources)
    assert len(links) == 34
    for path, found in links.items():
        data = pydicom.dcmread(path, stop_before_pixels=True)
        assert found.image_series_uid == data.ReferencedSeriesSequence[0].SeriesInstanceUID
