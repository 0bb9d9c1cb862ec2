// Bounding boxes of the pixels above a threshold (NaN is not above).
#include "gpuprep.cuh"

// A stale value read here costs an atomic that changes nothing.
DEVICE void lower(i32* p, i32 v) {
    if (v < *(volatile i32*)p) atomicMin(p, v);
}
DEVICE void raise(i32* p, i32 v) {
    if (v > *(volatile i32*)p) atomicMax(p, v);
}

// Elements of a row as its threads have them: p[k * ROW_THREADS] is element k of a thread.
template <class T>
DEVICE bool any_above(const T* p, T threshold) {
    i32 found = 0;  // not bool: that does not vectorise
    for (int l = 0; l < LANES; ++l) found |= p[l * ROW_THREADS] > threshold;
    return found != 0;
}

// The first and the last of n elements above the threshold: forward to the first, then backward to the last.
template <class T>
DEVICE bool ends_above(const T* p, i32 n, T threshold, i32& first, i32& last) {
    first = 0, last = n - 1;
    while (first + LANES <= n && !any_above(p + first * ROW_THREADS, threshold)) first += LANES;
    if (first + LANES > n) {
        i32 found = 0;
        FIRST_LANES(l, n - first) found |= p[(first + l) * ROW_THREADS] > threshold;
        if (!found) return false;
    }
    while (!(p[first * ROW_THREADS] > threshold)) ++first;
    while (last - LANES >= first && !any_above(p + (last - (LANES - 1)) * ROW_THREADS, threshold)) last -= LANES;
    while (!(p[last * ROW_THREADS] > threshold)) --last;
    return true;
}

// boxes[z]: first h, w and last h, w of the pixels of plane z above thresholds[z], to be initialised to the greatest and
// least i32. A plane has `blocks` blocks, whose threads look through their columns of `rows` rows. No loop over planes, as
// pad.cu has one: NVRTC 13.5 crashes on it.
#define PLANE_BOXES(NAME, T)                                                                                          \
    KERNEL NAME(const T* __restrict__ src, const T* __restrict__ thresholds, i32* boxes, i32 ny, i32 nx, i32 blocks,  \
                i32 rows) {                                                                                           \
        const i32 z = (i32)blockIdx.x / blocks, x = (i32)threadIdx.x;                                                 \
        const i32 begin = ((i32)blockIdx.x % blocks * (i32)blockDim.y + (i32)threadIdx.y) * rows;                     \
        const i32 end = begin + rows < ny ? begin + rows : ny, columns = (nx - x + ROW_THREADS - 1) / ROW_THREADS;    \
        const T threshold = thresholds[z];                                                                            \
        i32 y0 = ny, x0 = nx, y1 = -1, x1 = -1;                                                                       \
        for (i32 y = begin; y < end; ++y) {                                                                           \
            i32 first, last;                                                                                          \
            if (!ends_above(src + ((i64)z * ny + y) * nx + x, columns, threshold, first, last)) continue;             \
            first = x + first * ROW_THREADS, last = x + last * ROW_THREADS;                                           \
            y0 = y < y0 ? y : y0, x0 = first < x0 ? first : x0;                                                       \
            y1 = y, x1 = last > x1 ? last : x1;                                                                       \
        }                                                                                                             \
        if (y1 < 0) return;                                                                                           \
        i32* box = boxes + (i64)z * 4;                                                                                \
        lower(box + 0, y0), lower(box + 1, x0), raise(box + 2, y1), raise(box + 3, x1);                               \
    }
PLANE_BOXES(plane_boxes_u8, u8)
PLANE_BOXES(plane_boxes_u16, u16)
PLANE_BOXES(plane_boxes_u32, u32)
PLANE_BOXES(plane_boxes_i16, i16)
PLANE_BOXES(plane_boxes_i32, i32)
PLANE_BOXES(plane_boxes_f32, f32)
