"""What MedSegPy's own catalogue and loaders make of a data set: ``python medsegpy_loaders.py FOLDER``, JSON on stdout.

Runs in an environment with ``medsegpy==0.0.1`` (installed without its dependencies), NumPy, h5py and tqdm. MedSegPy
wants TensorFlow and Keras of 2021, of which its loaders use next to nothing: those imports are replaced, its own code
is not.
"""

import importlib.util
import json
import sys
import types
from collections import defaultdict
from pathlib import Path

import h5py
import numpy as np

np.bool = getattr(np, "bool", np.bool_)  # MedSegPy uses the name that NumPy has dropped


def replace_module(name, path=None, **contents):
    module = sys.modules[name] = types.ModuleType(name)
    module.__dict__.update(contents, **({"__path__": [path]} if path else {}))
    return module


class Registry(dict):
    def __init__(self, name):
        super().__init__()

    def register(self):
        return lambda kind: self.setdefault(kind.__name__, kind)


def replace_frameworks():
    """Let MedSegPy's packages be found without running what they import, and replace Keras, fvcore and models."""
    (root,) = importlib.util.find_spec("medsegpy").submodule_search_locations
    for package in ("", ".data", ".data.datasets", ".utils"):
        replace_module("medsegpy" + package, root + package.replace(".", "/"))
    identity = types.SimpleNamespace(apply_segmentation=lambda masks: masks)
    replace_module("medsegpy.config", Config=object)
    replace_module("medsegpy.modeling", Model=object)
    sys.modules["medsegpy.utils"].env = replace_module("medsegpy.utils.env", is_tf2=lambda: True)
    replace_module("medsegpy.utils.logger", log_first_n=lambda *args, **kwargs: None)
    replace_module("medsegpy.utils.cluster", Cluster=object)
    transforms = {"apply_transform_gens": lambda gens, x: (x, identity), "build_preprocessing": lambda cfg: []}
    replace_module("medsegpy.data.transforms", **transforms)
    backend = replace_module("keras.backend", floatx=lambda: "float32")
    replace_module("keras", backend=backend)
    replace_module("keras.utils")
    replace_module("keras.utils.data_utils", Sequence=type("Sequence", (), {}))
    for name in ("fvcore", "fvcore.common"):
        replace_module(name)
    replace_module("fvcore.common.registry", Registry=Registry)


def settings(size, categories):
    """The part of a MedSegPy configuration that loaders read."""
    return types.SimpleNamespace(
        SEED=None, CATEGORIES=categories, INCLUDE_BACKGROUND=False, PRELOAD_DATA=False, IMG_SIZE=size,
        IMG_PAD_MODE="constant", IMG_PAD_SIZE=(), IMG_STRIDE=(), get_num_classes=lambda: len(categories),
    )  # fmt: skip


def read_slices(dicts, categories):
    """Yield image and masks of each slice of a scan; every reader that MedSegPy has for this format agrees on them."""
    from medsegpy.data.data_loader import DefaultDataLoader, S25dDataLoader
    from medsegpy.data.fname_parsers import OAISliceWise
    from medsegpy.data.im_gens import OAIGenerator

    with h5py.File(dicts[0]["file_name"]) as file:
        height, width, _ = file["data"].shape
    loader = DefaultDataLoader(settings((height, width, 1), categories), dicts, shuffle=False)
    neighbours = S25dDataLoader(settings((height, width, 3), categories), dicts, shuffle=False)
    legacy = object.__new__(OAIGenerator)
    for n, entry in enumerate(dicts):
        image, masks = loader[n]
        assert np.array_equal(neighbours[n][0][..., 1], image[..., 0]), "the centre slice of three is another one"
        path = Path(entry["file_name"])
        stem = path.stem
        parsed = OAISliceWise().get_file_info(stem)
        assert OAISliceWise().get_fname(parsed) == stem and parsed["slice"] == n + 1, stem
        old_image, old_masks = legacy._load_inputs(str(path.parent), stem)
        assert np.array_equal(old_image, image[0]) and old_masks.shape[:2] == (height, width)
        yield image[0], masks[0]


def read_volume(dicts, categories):
    """Yield image and masks of each slice of a scan, as patches."""
    from medsegpy.data.data_loader import PatchDataLoader

    (entry,) = dicts
    height, width, depth = entry["image_size"]
    loader = PatchDataLoader(settings((height, width, 1), categories), dicts, shuffle=False)
    for n in range(depth):
        image, masks = loader[n]
        yield image[0], masks[0]


def measure(slices):
    """Size and sum of an image, and of each class the voxels, and those where MedSegPy sums members to more than 1."""
    total, depth, voxels, more_than_one = 0.0, 0, 0, 0
    for image, masks in slices:
        depth += 1
        total += float(image.sum(dtype=np.float64))
        voxels = voxels + np.count_nonzero(masks, axis=(0, 1))
        more_than_one = more_than_one + np.count_nonzero(masks > 1, axis=(0, 1))
    shape = (*image.shape[:2], depth)
    return {"shape": shape, "sum": total, "voxels": voxels.tolist(), "more_than_one": more_than_one.tolist()}


def main(root):
    replace_frameworks()
    sys.path.insert(0, root)
    import register_medsegpy
    from medsegpy.data.catalog import DatasetCatalog, MetadataCatalog
    from medsegpy.data.datasets.oai import load_oai_2d_from_dir, load_oai_3d_from_dir

    found = {}
    for name in register_medsegpy.register():
        metadata = MetadataCatalog.get(name)
        scans = defaultdict(list)
        for entry in DatasetCatalog.get(name):
            scans[entry["scan_id"]].append(entry)
        is_flat = next(iter(scans.values()))[0]["file_name"].endswith(".im")
        listed = (load_oai_2d_from_dir if is_flat else load_oai_3d_from_dir)(metadata.scan_root)
        assert {d["file_name"] for d in listed} == {d["file_name"] for dicts in scans.values() for d in dicts}
        found[name] = {"categories": metadata.categories, "spacing": metadata.spacing, "scans": {}}
        assert len(metadata.category_id_to_contiguous_id[""]) == len(metadata.categories)
        for scan, dicts in scans.items():
            found[name]["scans"][scan] = measure(
                (read_slices if is_flat else read_volume)(dicts, metadata.category_ids)
            )
    print(json.dumps(found))


if __name__ == "__main__":
    main(str(Path(sys.argv[1]).resolve()))
