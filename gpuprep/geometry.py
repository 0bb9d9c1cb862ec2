"""Where voxels are: the grid of a volume in patient space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuprep.errors import GeometryError

Float = NDArray[np.float64]

#: Points along each axis at which the overlap of two grids is looked at.
LATTICE_POINTS = 32
#: Two grids are the same when their voxel centres differ by no more than this, in mm.
SAME_GRID_TOLERANCE_MM = 1e-3
#: Counts of voxels ignore this fraction of a voxel, which is rounding.
GRID_ROUNDING = 1e-6
#: Parts of unit vectors that differ from their ideal by less than this count as exact (about 0.03 degrees).
DIRECTION_TOLERANCE = 5e-4


def median(values: Float) -> float:
    """Return the median of a vector; NumPy's own takes long to start, for it imports masked arrays."""
    ordered = np.sort(values)
    return float(ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


@dataclass(frozen=True, slots=True, eq=False)
class VolumeGeometry:
    """A regular voxel grid in the patient coordinate system.

    Parameters
    ----------
    shape : (int, int, int)
        (D, H, W) = (slices, rows, columns).
    index_to_lps : array of shape (4, 4), float64
        Affine from the index (d, h, w) of a voxel centre to (x, y, z) in LPS mm. Kept read-only.
    frame_of_reference_uid : str
        DICOM Frame of Reference UID; empty when unknown.

    Raises
    ------
    GeometryError
        ``degenerate-grid``: a dimension is not positive, or the affine is singular or not finite.
    """

    shape: tuple[int, int, int]
    index_to_lps: Float
    frame_of_reference_uid: str = ""

    def __post_init__(self) -> None:
        affine = np.array(self.index_to_lps, dtype=np.float64)
        if (
            affine.shape != (4, 4)
            or min(self.shape) < 1
            or not np.isfinite(affine).all()
            or not np.array_equal(affine[3], (0, 0, 0, 1))
            or np.linalg.det(affine[:3, :3]) == 0
        ):
            raise GeometryError(f"grid {self.shape} with affine {affine.tolist()}", code="degenerate-grid")
        affine.flags.writeable = False
        object.__setattr__(self, "index_to_lps", affine)
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))

    @classmethod
    def from_axes(
        cls,
        shape: Sequence[int],
        *,
        origin_lps_mm: ArrayLike,
        directions_dhw: ArrayLike,
        spacing_dhw_mm: ArrayLike,
        frame_of_reference_uid: str = "",
    ) -> VolumeGeometry:
        """Build from the axes of the grid.

        Parameters
        ----------
        shape : (int, int, int)
            (D, H, W).
        origin_lps_mm : (x, y, z)
            Centre of voxel (0, 0, 0), LPS mm.
        directions_dhw : array of shape (3, 3)
            Unit vectors along the (slice, row, column) axes, one a row, in LPS.
        spacing_dhw_mm : three floats
            Distance between voxel centres along these axes, mm.
        frame_of_reference_uid : str
            Empty when unknown.
        """
        affine = np.eye(4)
        affine[:3, :3] = (np.asarray(directions_dhw, np.float64) * np.asarray(spacing_dhw_mm, np.float64)[:, None]).T
        affine[:3, 3] = origin_lps_mm
        depth, height, width = shape
        return cls((depth, height, width), affine, frame_of_reference_uid)

    @property
    def spacing_dhw_mm(self) -> Float:
        """Distance between voxel centres along (slice, row, column) axes, shape (3,), mm."""
        return np.asarray(np.linalg.norm(self.index_to_lps[:3, :3], axis=0), np.float64)

    @property
    def voxel_mm3(self) -> float:
        """Volume of a voxel, mm³."""
        return abs(float(np.linalg.det(self.index_to_lps[:3, :3])))

    @property
    def directions_dhw(self) -> Float:
        """Unit vectors in LPS of the (slice, row, column) axes, one a row, shape (3, 3)."""
        return (self.index_to_lps[:3, :3] / self.spacing_dhw_mm).T

    @property
    def origin_lps_mm(self) -> Float:
        """Centre of voxel (0, 0, 0), (x, y, z) LPS mm."""
        return self.index_to_lps[:3, 3].copy()

    @property
    def normal(self) -> Float:
        """Unit normal of the slices, on the side to which they ascend, shape (3,)."""
        _, down, right = self.directions_dhw
        normal = np.cross(right, down)
        normal /= np.linalg.norm(normal)
        return normal if normal @ self.directions_dhw[0] >= 0 else -normal

    @property
    def lps_to_index(self) -> Float:
        """Inverse of `index_to_lps`, shape (4, 4)."""
        return np.asarray(np.linalg.inv(self.index_to_lps), np.float64)

    def to_lps(self, points_index: ArrayLike) -> Float:
        """Map index points (…, 3) as (d, h, w) to (x, y, z) LPS mm."""
        points = np.asarray(points_index, np.float64)
        return points @ self.index_to_lps[:3, :3].T + self.index_to_lps[:3, 3]

    def to_index(self, points_lps_mm: ArrayLike) -> Float:
        """Map (x, y, z) LPS mm points (…, 3) to index (d, h, w)."""
        inverse = self.lps_to_index
        return np.asarray(points_lps_mm, np.float64) @ inverse[:3, :3].T + inverse[:3, 3]

    def is_orthogonal(self) -> bool:
        """Whether the three axes are at right angles, within `DIRECTION_TOLERANCE`."""
        gram = self.directions_dhw @ self.directions_dhw.T
        return bool(np.abs(gram - np.eye(3)).max() < DIRECTION_TOLERANCE)

    def same_grid(self, other: VolumeGeometry, tolerance_mm: float = SAME_GRID_TOLERANCE_MM) -> bool:
        """Whether both grids have the same voxel centres, within `tolerance_mm` at every corner."""
        if self.shape != other.shape:
            return False
        corners = np.array([[d, h, w] for d in (0, 1) for h in (0, 1) for w in (0, 1)]) * (np.array(self.shape) - 1)
        return bool(np.abs(self.to_lps(corners) - other.to_lps(corners)).max() <= tolerance_mm)

    def share_within(self, other: VolumeGeometry) -> float:
        """Return the share of this grid's voxel centres in the extent of `other`, estimated from a coarse lattice.

        The extent ends half a voxel beyond the outermost centres. Each axis is sampled at `LATTICE_POINTS` voxels at
        most, both ends included.
        """
        axes = [np.unique(np.linspace(0, n - 1, LATTICE_POINTS).round()) for n in self.shape]
        lattice = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
        index = other.to_index(self.to_lps(lattice))
        return float(((index >= -0.5) & (index < np.array(other.shape) - 0.5)).all(axis=-1).mean())

    def crop(self, start_dhw: Sequence[int], shape: Sequence[int]) -> VolumeGeometry:
        """Return the grid of the box that starts at voxel `start_dhw` (may be negative: padding) with `shape`."""
        affine = self.index_to_lps.copy()
        affine[:3, 3] = self.to_lps(start_dhw)
        depth, height, width = shape
        return replace(self, shape=(depth, height, width), index_to_lps=affine)

    def with_spacing(self, spacing_dhw_mm: Sequence[float]) -> VolumeGeometry:
        """Return a grid over the same extent with another spacing; 0 keeps an axis as it is.

        The first voxel centre stays where it is and an axis gets ``round(n * old / new)`` voxels, at least one: the
        convention of ITK's resampling and of med-imagetools. Those at the end are left out whose centres would lie
        outside the volume, beyond the face of its outermost voxel, where there is nothing to sample.
        """
        old = self.spacing_dhw_mm
        new = np.where(np.asarray(spacing_dhw_mm, np.float64) > 0, spacing_dhw_mm, old)
        count = np.array(self.shape)
        inside = np.ceil((count - 0.5) * old / new - GRID_ROUNDING)
        depth, height, width = np.maximum(1, np.minimum(np.floor(count * old / new + 0.5), inside)).astype(int).tolist()
        affine = self.index_to_lps.copy()
        affine[:3, :3] *= new / old
        return replace(self, shape=(depth, height, width), index_to_lps=affine)

    def reoriented(self, axes: Sequence[int], flips: Sequence[bool]) -> VolumeGeometry:
        """Return the grid of ``array.transpose(axes)`` with the new axes where `flips` is true reversed."""
        affine = self.index_to_lps.copy()
        affine[:3, :3] = affine[:3, :3][:, list(axes)]
        depth, height, width = (self.shape[a] for a in axes)
        shape = (depth, height, width)
        for axis, flip in enumerate(flips):
            if flip:
                affine[:3, 3] += affine[:3, axis] * (shape[axis] - 1)
                affine[:3, axis] *= -1
        return replace(self, shape=shape, index_to_lps=affine)

    def axis_aligned(self) -> VolumeGeometry:
        """Return the grid along the patient's axes that covers this one, with the spacing of the nearest axes.

        This grid itself when its axes run along the patient's already, within `SAME_GRID_TOLERANCE_MM` at every corner.
        Otherwise index axes keep their order and sense, and the outermost voxel centres of this grid lie within.
        """
        straight = np.zeros((3, 3))
        for axis, world in enumerate(closest_axes(self.directions_dhw)):
            straight[axis, world] = np.sign(self.directions_dhw[axis, world])
        spacing = self.spacing_dhw_mm
        corners = np.array([[d, h, w] for d in (0, 1) for h in (0, 1) for w in (0, 1)]) * (np.array(self.shape) - 1)
        along = self.to_lps(corners) @ straight.T
        count = np.ceil((along.max(axis=0) - along.min(axis=0)) / spacing - GRID_ROUNDING).astype(int) + 1
        aligned = VolumeGeometry.from_axes(
            count.tolist(),
            origin_lps_mm=along.min(axis=0) @ straight,
            directions_dhw=straight,
            spacing_dhw_mm=spacing,
            frame_of_reference_uid=self.frame_of_reference_uid,
        )
        return self if self.same_grid(aligned) else aligned

    def orientation(self) -> str:
        """Return the nearest anatomical code of the (column, row, slice) axes, for example ``"LPS"`` for axial CT.

        A letter names the side *towards which* the index grows, as nibabel's ``aff2axcodes`` does; columns come first.
        """
        letters = (("R", "L"), ("A", "P"), ("I", "S"))
        directions = self.directions_dhw
        order = closest_axes(directions)
        return "".join(letters[order[a]][int(directions[a, order[a]] > 0)] for a in (2, 1, 0))


def closest_axes(directions_dhw: Float) -> tuple[int, int, int]:
    """Assign to each index axis (d, h, w) the patient axis 0, 1, 2 it runs along, each once, best match first."""
    size = np.abs(directions_dhw).copy()
    found = [0, 0, 0]
    for _ in range(3):
        axis, world = np.unravel_index(int(size.argmax()), size.shape)
        found[int(axis)] = int(world)
        size[axis, :] = size[:, world] = -1
    return found[0], found[1], found[2]
