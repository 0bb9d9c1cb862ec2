// Bounding box of the voxels above a threshold (NaN is not above).
#include "gpuprep.cuh"

// A stale value read here costs an atomic that changes nothing.
DEVICE void lower(i32* p, i32 v) {
    if (v < *(volatile i32*)p) atomicMin(p, v);
}
DEVICE void raise(i32* p, i32 v) {
    if (v > *(volatile i32*)p) atomicMax(p, v);
}

template <class T>
DEVICE bool any_above(const T* p, T threshold) {
    i32 found = 0;  // not bool: that does not vectorise
    for (int l = 0; l < LANES; ++l) found |= p[l] > threshold;
    return found != 0;
}

// The first and the last of p[begin] … p[end - 1] above the threshold: forward to the first, then backward to the last.
template <class T>
DEVICE bool ends_above(const T* p, i32 begin, i32 end, T threshold, i32& first, i32& last) {
    first = begin, last = end - 1;
    while (first + LANES <= end && !any_above(p + first, threshold)) first += LANES;
    while (first < end && !(p[first] > threshold)) ++first;
    if (first >= end) return false;
    while (last - LANES >= first && !any_above(p + last - (LANES - 1), threshold)) last -= LANES;
    while (!(p[last] > threshold)) --last;
    return true;
}

// box: first d, h, w and last d, h, w, to be initialised to the greatest and least i32. A thread looks through one of
// `parts` pieces of a row of nx voxels.
#define BOX(NAME, T)                                                                                           \
    KERNEL NAME(const T* __restrict__ src, i64 rows, i32 ny, i32 nx, i32 parts, T threshold, i32* box) {       \
        const i64 thread = (i64)blockIdx.x * blockDim.x + threadIdx.x, row = thread / parts;                   \
        if (row >= rows) return;                                                                               \
        const i32 size = (nx + parts - 1) / parts, begin = (i32)(thread % parts) * size;                       \
        const i32 end = begin + size < nx ? begin + size : nx;                                                 \
        i32 first, last;                                                                                       \
        if (!ends_above(src + row * nx, begin, end, threshold, first, last)) return;                           \
        const i32 z = (i32)(row / ny), y = (i32)(row % ny);                                                    \
        lower(box + 0, z), lower(box + 1, y), lower(box + 2, first);                                           \
        raise(box + 3, z), raise(box + 4, y), raise(box + 5, last);                                            \
    }
BOX(box_u8, u8)
BOX(box_u16, u16)
BOX(box_u32, u32)
BOX(box_i16, i16)
BOX(box_i32, i32)
BOX(box_f32, f32)

// A box for each plane: first h, w and last h, w of plane z above thresholds[z], initialised likewise.
#define PLANE_BOXES(NAME, T)                                                                                   \
    KERNEL NAME(const T* __restrict__ src, i64 rows, i32 ny, i32 nx, i32 parts, const T* __restrict__ thresholds, \
                i32* boxes) {                                                                                  \
        const i64 thread = (i64)blockIdx.x * blockDim.x + threadIdx.x, row = thread / parts;                   \
        if (row >= rows) return;                                                                               \
        const i32 size = (nx + parts - 1) / parts, begin = (i32)(thread % parts) * size;                       \
        const i32 end = begin + size < nx ? begin + size : nx;                                                 \
        const i32 z = (i32)(row / ny), y = (i32)(row % ny);                                                    \
        i32 first, last;                                                                                       \
        if (!ends_above(src + row * nx, begin, end, thresholds[z], first, last)) return;                       \
        i32* box = boxes + (i64)z * 4;                                                                         \
        lower(box + 0, y), lower(box + 1, first), raise(box + 2, y), raise(box + 3, last);                     \
    }
PLANE_BOXES(plane_boxes_u8, u8)
PLANE_BOXES(plane_boxes_u16, u16)
PLANE_BOXES(plane_boxes_i16, i16)
PLANE_BOXES(plane_boxes_f32, f32)
