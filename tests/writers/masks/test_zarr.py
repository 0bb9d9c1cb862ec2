"""Parts of a Zarr mask, and its OME-Zarr labels."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import zarr as zarr_library
from mask_sets import coded_roi, oblique_geometry, random_mask

from gpuprep.errors import HeaderError
from gpuprep.geometry import VolumeGeometry
from gpuprep.masks import Roi, assign_layers, from_planes
from gpuprep.writers.masks import zarr

SHAPE = (130, 300, 300)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A mask of noise, so that chunks are large; its last ROI fills a corner."""
    planes = np.zeros((1, *SHAPE), np.uint32)
    planes[0] = np.random.default_rng(0).integers(0, 8, SHAPE)
    planes[0, 2:9, 4:20, 6:30] |= 8
    mask = from_planes(planes, [Roi(n, f"r{n}") for n in range(5)], oblique_geometry(SHAPE))
    path = tmp_path_factory.mktemp("zarr") / "m.zarr"
    zarr.write(mask, path)
    return mask, path


@pytest.fixture
def bytes_read(monkeypatch):
    """Bytes that the store handed out since the test began."""
    taken = []
    get = zarr_library.storage.LocalStore.get

    async def counting(self, *args, **kwargs):
        buffer = await get(self, *args, **kwargs)
        taken.append(len(buffer) if buffer is not None else 0)
        return buffer

    monkeypatch.setattr(zarr_library.storage.LocalStore, "get", counting)
    return taken


@pytest.mark.parametrize("name", ["codes", "table"])
@pytest.mark.parametrize("read", [zarr.read, lambda path: zarr.read_patch(path, (0, 0, 0), (1, 1, 1)),
                                  lambda path: zarr.read_binary(path, 0)])  # fmt: skip
def test_data_that_was_lost_is_no_empty_mask(tmp_path, name, read):
    """Zarr reads zeros where there is no file."""
    zarr.write(random_mask(3), tmp_path / "m.zarr")
    read(tmp_path / "m.zarr")
    shutil.rmtree(tmp_path / "m.zarr" / name / "c")
    with pytest.raises(HeaderError) as caught:
        read(tmp_path / "m.zarr")
    assert caught.value.code == "mask-unreadable"
    assert name in caught.value.message


@pytest.mark.parametrize("planes", [np.zeros((1, 3, 4, 5), np.uint32), np.full((1, 3, 4, 5), 3, np.uint32)])
def test_masks_of_one_set_are_whole_without_codes(tmp_path, planes):
    mask = from_planes(planes, [Roi(1, "a"), Roi(2, "b")], oblique_geometry((3, 4, 5)))
    zarr.write(mask, tmp_path / "m.zarr")
    assert np.array_equal(zarr.read(tmp_path / "m.zarr").to_planes(), planes)


def test_a_patch(written):
    mask, path = written
    start, shape = (60, 120, 100), (70, 50, 130)
    patch = zarr.read_patch(path, start, shape)
    box = tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))
    assert np.array_equal(patch.to_planes(), mask.to_planes()[(slice(None), *box)])
    assert patch.geometry.same_grid(mask.geometry.crop(start, shape))
    assert [roi.name for roi in patch.rois] == [roi.name for roi in mask.rois]


def test_a_patch_reads_its_chunks_alone(written, bytes_read):
    _, path = written
    zarr.read_patch(path, (0, 0, 0), zarr.CHUNK)
    patch, whole = sum(bytes_read), (path / "codes" / "c" / "0" / "0" / "0").stat().st_size
    assert patch < whole / 8


def test_one_roi_reads_its_box_alone(written, bytes_read):
    mask, path = written
    binary = zarr.read_binary(path, 3)
    assert sum(bytes_read) < (path / "codes" / "c" / "0" / "0" / "0").stat().st_size / 8
    assert np.array_equal(binary, mask.binary(3))
    assert np.array_equal(zarr.read_binary(path, 0), mask.binary(0))
    assert not zarr.read_binary(path, 4).any()


def test_one_file_an_array(written):
    _, path = written
    assert sum(p.is_file() for p in (path / "codes").rglob("*")) == 2


@pytest.mark.parametrize("start", [(-1, 0, 0), (0, 0, 172)])
def test_a_patch_beyond_the_mask_is_refused(written, start):
    with pytest.raises(HeaderError) as caught:
        zarr.read_patch(written[1], start, (4, 129, 129))
    assert caught.value.code == "mask-unreadable"


def test_a_roi_that_is_not_there_is_refused(written):
    with pytest.raises(HeaderError) as caught:
        zarr.read_binary(written[1], 5)
    assert caught.value.code == "mask-unreadable"


def test_ome_labels_hold_every_roi_of_their_layer(tmp_path):
    mask = random_mask(12, density=0.2, rois=[coded_roi(n, f"roi {n}") for n in range(12)])
    zarr.write(mask, tmp_path / "m.zarr", ome_labels=True)
    group = zarr_library.open_group(tmp_path / "m.zarr", mode="r")
    places = assign_layers(mask, 65535)
    names = group["labels"].attrs["ome"]["labels"]
    assert names == [f"layer_{n}" for n in range(1 + max(layer for layer, _ in places))]
    for n, (layer, value) in enumerate(places):
        node = group["labels"][names[layer]]
        assert np.array_equal(node["0"][...] == value, mask.binary(n).astype(bool))
        ome = node.attrs["ome"]
        assert {"label-value": value, "name": f"roi {n}"} in ome["image-label"]["properties"]
        assert {"label-value": value, "rgba": [1, 128, 254, 255]} in ome["image-label"]["colors"]
        scale, _ = ome["multiscales"][0]["datasets"][0]["coordinateTransformations"]
        assert np.allclose(scale["scale"], mask.geometry.spacing_dhw_mm)


@pytest.mark.parametrize(("rois", "keys"), [((Roi(1, "a"),), ["properties"]), ((), [])])
def test_ome_labels_without_colours_have_no_empty_list(tmp_path, rois, keys):
    """Its schema (0.5/schemas/label.schema) wants at least one entry."""
    zarr.write(random_mask(len(rois), rois=rois), tmp_path / "m.zarr", ome_labels=True)
    node = zarr_library.open_group(tmp_path / "m.zarr", mode="r")["labels/layer_0"]
    assert list(node.attrs["ome"]["image-label"]) == keys


def test_ome_labels_lie_where_the_mask_does(tmp_path):
    grid = VolumeGeometry.from_axes(
        (3, 4, 5),
        origin_lps_mm=(10, 20, 30),
        directions_dhw=[[0, 0, 1], [0, 1, 0], [1, 0, 0]],
        spacing_dhw_mm=(2, 0.5, 0.25),
    )
    zarr.write(random_mask(1, geometry=grid, rois=[Roi(1, "a")]), tmp_path / "m.zarr", ome_labels=True)
    ome = zarr_library.open_group(tmp_path / "m.zarr", mode="r")["labels/layer_0"].attrs["ome"]
    assert ome["version"] == "0.5"
    assert ome["multiscales"] == [  # https://ngff.openmicroscopy.org/0.5/#multiscale-md
        {
            "name": "layer_0",
            "axes": [{"name": axis, "type": "space", "unit": "millimeter"} for axis in "zyx"],
            "datasets": [
                {
                    "path": "0",
                    "coordinateTransformations": [
                        {"type": "scale", "scale": [2, 0.5, 0.25]},
                        {"type": "translation", "translation": [30, 20, 10]},
                    ],
                }
            ],
        }
    ]
