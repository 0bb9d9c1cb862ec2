"""The 148-ROI set: 104 organs that share no voxel, 5 lobes, 18 segments of them, 20 lesions, the whole lung.

The organs are the cells of random seeds within the body, with noisy borders, each cut to a size drawn for it; ten are
hidden by others and so empty, as happens in real studies. The same every time.
"""

from __future__ import annotations

import numpy as np

from gpuprep.geometry import VolumeGeometry
from gpuprep.masks import Roi, RoiMask, from_slices

SHAPE = (300, 512, 512)
ORGANS, HIDDEN, LOBES, SEGMENTS, LESIONS = 104, 10, 5, 18, 20
COUNT = ORGANS + LOBES + SEGMENTS + LESIONS + 1


def make(shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> RoiMask:
    """Return the mask of the set on a grid of 1.5 × 0.8 × 0.8 mm."""
    geometry = VolumeGeometry.from_axes(
        shape, origin_lps_mm=(-204.3, -180.7, -612.5), directions_dhw=np.eye(3)[::-1],
        spacing_dhw_mm=(1.5, 0.8, 0.8), frame_of_reference_uid="1.2.826.0.1.3680043.8.498.1",
    )  # fmt: skip
    random = np.random.default_rng(seed)
    size = np.array(shape)
    names = [f"organ_{n:03d}" for n in range(ORGANS)]
    names += [f"lobe_{n}" for n in range(LOBES)] + [f"segment_{n:02d}" for n in range(SEGMENTS)]
    names += [f"lesion_{n:02d}" for n in range(LESIONS)] + ["lung"]
    rois = [Roi(n + 1, name, tuple(random.integers(0, 256, 3).tolist())) for n, name in enumerate(names)]
    organs = random.uniform(0.1, 0.9, (ORGANS - HIDDEN, 3)) * size
    radii = random.uniform(0.02, 0.11, ORGANS - HIDDEN) * size[1]
    lobes = np.array([(0.3, 0.45, 0.3), (0.5, 0.5, 0.27), (0.7, 0.5, 0.3), (0.35, 0.5, 0.7), (0.65, 0.5, 0.7)]) * size
    segments = lobes[np.arange(SEGMENTS) % LOBES] + random.normal(0, 0.06, (SEGMENTS, 3)) * size
    lesions = lobes[random.integers(0, LOBES, LESIONS)] + random.normal(0, 0.05, (LESIONS, 3)) * size
    sizes = random.uniform(3, 12, LESIONS)
    y, x = np.mgrid[: shape[1], : shape[2]].astype(np.float32)

    def distance(d: int, centre: np.ndarray) -> np.ndarray:
        return np.sqrt((1.5 / 0.8 * (d - centre[0])) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2)

    def nearest(distances: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        stack = np.stack(distances)
        which = stack.argmin(axis=0)
        return which, np.take_along_axis(stack, which[None], 0)[0]

    def slices():
        for d in range(shape[0]):
            ripple = 2 * np.sin(y / 9 + d / 7) + 2 * np.sin(x / 11 - d / 5)
            members = np.zeros((COUNT, *shape[1:]), bool)
            near = [n for n in range(len(organs)) if 1.5 / 0.8 * abs(d - organs[n][0]) < radii[n] + 4]
            if near:
                which, far = nearest([distance(d, organs[n]) / radii[n] + ripple / radii[n] for n in near])
                for at, n in enumerate(near):
                    members[n] = (which == at) & (far < 1)
            lung_of, lung_far = nearest([distance(d, centre) + ripple for centre in lobes])
            lung = lung_far < 0.16 * size[1]
            segment_of, _ = nearest([distance(d, centre) + ripple for centre in segments])
            for n in range(LOBES):
                members[ORGANS + n] = lung & (lung_of == n)
            for n in range(SEGMENTS):
                members[ORGANS + LOBES + n] = lung & (lung_of == n % LOBES) & (segment_of == n)
            for n in range(LESIONS):
                members[ORGANS + LOBES + SEGMENTS + n] = distance(d, lesions[n]) + ripple / 4 < sizes[n]
            members[-1] = lung
            packed = np.packbits(members, axis=0, bitorder="little")
            packed = np.concatenate([packed, np.zeros((-len(packed) % 4, *shape[1:]), np.uint8)])
            yield np.ascontiguousarray(np.moveaxis(packed, 0, -1)).view("<u4").transpose(2, 0, 1)

    return from_slices(slices(), rois, geometry)
