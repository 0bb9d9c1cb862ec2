"""``gpuprep masks`` in a process of its own."""

from __future__ import annotations

import conversions
import numpy as np
import pydicom
import pytest
from mask_sets import check_same, coded_roi, random_mask

from gpuprep.cli.masks import _finish
from gpuprep.dicom import synth
from gpuprep.masks import Code, Roi, let_last_win, select_rois
from gpuprep.run.masks import MaskProblem, OpenedMask
from gpuprep.writers.masks import read_mask, segnrrd


@pytest.fixture
def source(tmp_path):
    mask = random_mask(
        4, 1, density=0.3, rois=[Roi(1, "empty"), coded_roi(2, "GTV"), Roi(3, "Lung_L"), Roi(4, "Lung_R")]
    )
    segnrrd.write(mask, tmp_path / "in.seg.nrrd")
    return mask, tmp_path / "in.seg.nrrd"


def test_info_prints_rois_and_overlaps(source, gpuprep):
    mask, path = source
    done = gpuprep("masks", "info", path)
    assert done.status == 0
    lines = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line.split()}
    for n, roi in enumerate(mask.rois):
        assert lines[roi.name][1:3] == [str(roi.number), str(mask.voxel_counts[n])]
    assert "#0180fe" in lines["GTV"] and done.stdout.startswith("grid 7 × 5 × 3,")
    for i, j, voxels in mask.overlaps():
        assert f"{mask.rois[i].name!r} and {mask.rois[j].name!r}: {voxels} voxels" in done.stdout


def test_info_escapes_what_would_break_its_lines(gpuprep, tmp_path):
    segnrrd.write(random_mask(2, rois=[Roi(1, "a\nb\x1b[2J"), Roi(2, "\ud800 肝臓")]), tmp_path / "m.seg.nrrd")
    done = gpuprep("masks", "info", tmp_path / "m.seg.nrrd")
    assert done.status == 0, done.stderr
    assert "\na\\nb\\x1b[2J " in done.stdout and "\n\\ud800 肝臓 " in done.stdout


def test_a_folder_of_something_else_is_refused(gpuprep, tmp_path):
    (tmp_path / "ct").mkdir()
    (tmp_path / "ct" / "1.dcm").write_bytes(b"")
    done = gpuprep("masks", "info", tmp_path / "ct")
    assert done.status == 4 and "holds neither NIfTI files" in done.stderr and "[mask-unreadable]" in done.stderr


def test_what_is_wrong_with_the_file_or_a_roi_that_is_kept_is_told_and_fails(capsys):
    mask = random_mask(1, rois=[Roi(1, "kept")])
    kept, other = MaskProblem("a contour", mask.rois[0]), MaskProblem("elsewhere", Roi(2, "left out"))
    for problems, status, said in [((MaskProblem("the file"), other), 4, "the file"), ((kept, other), 4, "a contour")]:
        assert _finish(OpenedMask(mask, problems=problems)) == status
        assert capsys.readouterr().err == f"warning: {said}\n"
    assert _finish(OpenedMask(mask, problems=(other,))) == 0


@pytest.mark.parametrize("option", [("--deflated",), ("--seg-kind", "binary"), ("--ome-labels",)])
def test_options_of_another_container_are_refused(source, gpuprep, tmp_path, option):
    done = gpuprep("masks", "convert", source[1], tmp_path / "m.npz", *option)
    assert done.status == 2 and "[option-without-use]" in done.stderr and option[0] in done.stderr
    assert not (tmp_path / "m.npz").exists()


def test_a_missing_slice_is_bridged_on_request(gpuprep, tmp_path):
    series = conversions.write_images(tmp_path / "in", "P")
    structures = conversions.write_structures(
        tmp_path / "in" / "rs.dcm", series, conversions.two_rois(conversions.GRID)
    )
    sorted(p for p in (tmp_path / "in").rglob("*.dcm") if p != structures)[6].unlink()  # beyond the contours
    arguments = ("masks", "convert", structures, tmp_path / "m.npz", "--image", tmp_path / "in")
    refused = gpuprep(*arguments)
    assert refused.status == 4 and "[missing-slice]" in refused.stderr and "--on-irregular resample" in refused.stderr
    assert gpuprep(*arguments, "--on-irregular", "resample").status == 0
    assert read_mask(tmp_path / "m.npz").geometry.same_grid(series.geometry)


def test_a_file_that_only_claims_to_be_dicom_is_refused(gpuprep, tmp_path):
    (tmp_path / "m.dcm").write_bytes(bytes(200))
    done = gpuprep("masks", "info", tmp_path / "m.dcm")
    assert done.status == 4 and "[not-dicom]" in done.stderr


@pytest.mark.parametrize("name", ["m.zarr", "m.h5", "m.npz", "folder", "m.seg.nrrd"])
def test_convert(source, gpuprep, tmp_path, name):
    mask, path = source
    done = gpuprep("masks", "convert", path, tmp_path / "out" / name)
    assert (done.status, done.stdout.strip()) == (0, str(tmp_path / "out" / name))
    check_same(mask, read_mask(tmp_path / "out" / name))


def test_extract_by_name(source, gpuprep, tmp_path):
    mask, path = source
    done = gpuprep("masks", "extract", path, tmp_path / "m.npz", "--roi", "lung*", "--roi", "GTV")
    assert done.status == 0
    check_same(select_rois(mask, ["Lung*", "GTV"]), read_mask(tmp_path / "m.npz"))
    missing = gpuprep("masks", "extract", path, tmp_path / "x.npz", "--roi", "heart")
    assert missing.status == 4 and "[name-unmatched]" in missing.stderr and "'Lung_L'" in missing.stderr


def test_only_the_rois_that_are_asked_for_have_to_be_whole(gpuprep, tmp_path):
    series = conversions.write_images(tmp_path / "ct", "P")
    isocentre = synth.RoiSpec(9, "ISO", [conversions.GRID.to_lps([(1, 2, 3)])], "POINT")
    rois = [isocentre, *conversions.two_rois(conversions.GRID)]
    structures = conversions.write_structures(tmp_path / "rs.dcm", series, rois)
    for roi, kind, status in (("GTV", "binary", 0), ("ISO", "binary", 4), ("*", "auto", 4)):
        done = gpuprep(
            "masks", "extract", structures, tmp_path / "m.dcm", "--roi", roi, "--image", tmp_path / "ct",
            "--seg-kind", kind,
        )  # fmt: skip
        assert done.status == status, done.stderr
        lines = [line for line in done.stderr.splitlines() if line]
        assert len(lines) == (1 if status else 0) and all("[point-contour]" in line for line in lines)


def test_sources_are_not_written_to(source, gpuprep, tmp_path):
    conversions.write_images(tmp_path / "ct", "P")
    for arguments in (
        ("convert", source[1], source[1]),
        ("extract", source[1], tmp_path / "ct" / ".." / source[1].name, "--roi", "GTV"),
        ("convert", source[1], tmp_path / "ct" / "IM002.dcm", "--to", "dicomseg", "--image", tmp_path / "ct"),
    ):
        before = arguments[2].read_bytes()
        refused = gpuprep("masks", *arguments)
        assert refused.status == 2 and "[output-is-source]" in refused.stderr
        assert arguments[2].read_bytes() == before


def test_a_label_image_never_flattens_silently(source, gpuprep, tmp_path):
    mask, path = source
    refused = gpuprep("masks", "convert", path, tmp_path / "m.nii.gz")
    assert refused.status == 4 and "[labels-overlap]" in refused.stderr and not (tmp_path / "m.nii.gz").exists()
    done = gpuprep("masks", "convert", path, tmp_path / "m.nii.gz", "--on-overlap", "last-wins")
    expected, lost = let_last_win(mask)
    assert done.status == 0
    assert f"'GTV' lost {lost[1]} voxels to later ROIs" in done.stderr
    check_same(expected, read_mask(tmp_path / "m.nii.gz"))


def test_codes_of_a_structure_set_reach_every_container(gpuprep, tmp_path):
    series = conversions.write_images(tmp_path / "in", "P")

    def observe(data):
        def coded(value, meaning, **more):
            item = pydicom.Dataset()
            item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
            for keyword, nested in more.items():
                setattr(item, keyword, [nested])
            return item

        observation = pydicom.Dataset()
        observation.ObservationNumber, observation.ReferencedROINumber = 1, 1
        observation.RTROIInterpretedType, observation.ROIInterpreter = "GTV", ""
        left = coded("7771000", "Left")
        observation.SegmentedPropertyCategoryCodeSequence = [coded("49755003", "Morphologically Abnormal Structure")]
        observation.RTROIIdentificationCodeSequence = [coded("86049000", "Neoplasm, Primary")]
        observation.AnatomicRegionSequence = [coded("39607008", "Lung", AnatomicRegionModifierSequence=left)]
        data.RTROIObservationsSequence = [observation]

    structures = conversions.write_structures(
        tmp_path / "in" / "rs.dcm", series, conversions.two_rois(conversions.GRID), edit=observe
    )
    for name in ("m.seg.nrrd", "m.dcm", "m.zarr"):
        done = gpuprep("masks", "convert", structures, tmp_path / name, "--image", tmp_path / "in")
        assert done.status == 0, done.stderr
    header = (tmp_path / "m.seg.nrrd").read_bytes().split(b"\n\n")[0].decode()
    (tags,) = (line for line in header.splitlines() if line.startswith("Segment0_Tags:="))
    assert "~SCT^49755003^Morphologically Abnormal Structure~SCT^86049000^Neoplasm, Primary~^^~" in tags
    assert tags.endswith("~SCT^39607008^Lung~SCT^7771000^Left|")
    segments = pydicom.dcmread(tmp_path / "m.dcm").SegmentSequence
    (segment,) = (s for s in segments if s.SegmentLabel == "gtv")
    assert segment.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == "86049000"
    region = segment.AnatomicRegionSequence[0]
    assert (region.CodeValue, region.AnatomicRegionModifierSequence[0].CodeMeaning) == ("39607008", "Left")
    gtv, ctv = read_mask(tmp_path / "m.zarr").rois
    assert gtv.region == Code("SCT", "39607008", "Lung") and gtv.region_modifiers == (Code("SCT", "7771000", "Left"),)
    assert ctv.category is None and ctv.type is None and ctv.region is None


def test_studies_to_a_seg_and_back(gpuprep, tmp_path):
    assert gpuprep("synth", tmp_path / "dicom").status == 0
    (structures,) = (p for p in (tmp_path / "dicom").rglob("*.dcm") if "RTSTRUCT" in str(p))
    image = tmp_path / "dicom"
    for arguments in (
        [structures, tmp_path / "a.dcm", "--image", image],
        [tmp_path / "a.dcm", tmp_path / "b.seg.nrrd"],
    ):
        done = gpuprep("masks", "convert", *arguments)
        assert done.status == 0, done.stderr
    (tmp_path / "there").symlink_to(structures.parent)  # the same file by another path
    structures = tmp_path / "there" / structures.name
    drawn = gpuprep("masks", "convert", structures, tmp_path / "c.npz", "--image", image)
    assert drawn.status == 0
    check_same(read_mask(tmp_path / "c.npz"), read_mask(tmp_path / "b.seg.nrrd"))
    assert np.count_nonzero(read_mask(tmp_path / "c.npz").voxel_counts) > 1
    alone = gpuprep("masks", "convert", tmp_path / "c.npz", tmp_path / "d.dcm")
    assert alone.status == 2 and "[image-needed]" in alone.stderr
