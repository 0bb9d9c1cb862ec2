"""How much of a case is on a device at a time, and what is tried when that is too much.

A case is a batch of one, so to halve it is to cut it: its images stay on the host, where everything is done but the
resampling, and that takes slabs of slices, each with the slices it depends on. At last the host does it all. The
voxels are the same each time, for the host runs the same kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from gpuprep.errors import DeviceMemoryError
from gpuprep.ops.rasterize import SLAB_BYTES

#: Into how many slabs an image is cut, as they are tried: the whole first, and 0 for nothing on the device.
SLABS_TRIED = (1, 2, 4, 8, 16, 32, 64, 0)

#: Bytes of a stored word; values of as many are made in its place.
_WORD_BYTES = 2
#: Bytes of a voxel of a bit plane, and of a code.
_PLANE_BYTES, _CODE_BYTES = 4, 1
#: Slices that a slab depends on beside those it lies between.
_HALO_SLICES = 8


def estimate_bytes(
    source_shape: Sequence[int],
    target_shape: Sequence[int],
    slabs: int,
    *,
    value_bytes: int,
    output_bytes: int,
    has_mask: bool,
) -> int:
    """Return how many bytes of a device a case is likely to take at most.

    Parameters
    ----------
    source_shape, target_shape : (int, int, int)
        (D, H, W) of the decoded image and of the output.
    slabs : int
        Into how many it is cut; 0 when it stays on the host.
    value_bytes, output_bytes : int
        Of a voxel: in modality values, and as it is written.
    has_mask : bool
        Whether ROIs are drawn on the device while the image is there.
    """
    if slabs == 0:
        return 0
    source_voxels, target_voxels = prod(source_shape), prod(target_shape)
    if slabs > 1:
        source_slices = min(source_shape[0], -(-source_shape[0] // slabs) + _HALO_SLICES)
        target_slices = -(-target_shape[0] // slabs)
        return value_bytes * (source_slices * prod(source_shape[1:]) + target_slices * prod(target_shape[1:]))
    words = 0 if value_bytes == _WORD_BYTES else _WORD_BYTES
    mask = min(_PLANE_BYTES * target_voxels, SLAB_BYTES["cuda"]) + _CODE_BYTES * target_voxels if has_mask else 0
    return (words + value_bytes) * source_voxels + (value_bytes + output_bytes) * target_voxels + mask


def check_room(needed_bytes: int, memory_bytes: int) -> None:
    """Refuse, before anything is uploaded, what will not fit.

    Raises
    ------
    DeviceMemoryError
        ``device-memory``.
    """
    if needed_bytes > memory_bytes:
        raise DeviceMemoryError(
            f"{needed_bytes / 1e9:.2f} GB of the device may be needed, a case has {memory_bytes / 1e9:.2f} GB",
            code="device-memory",
        )


def describe_shortage(slabs: int, reason: str) -> str:
    """Return the warning of a case that was not on the device as a whole."""
    done = f"the CPU did all but the resampling, in {slabs} slabs" if slabs else "the CPU did it"
    return f"too much for the device's memory: {done} ({reason})"
