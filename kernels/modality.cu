// Stored pixel words to modality values (PS3.3 C.7.6.3.1 and C.11.1): take the stored bits out of each word, extend the
// sign, apply the slope and intercept of the slice. Words are read as signed when the stored values are.
#include "gpuprep.cuh"

// left: bits above the high bit; right: bits of a word less the bits stored.
template <class S>
DEVICE S unpacked(S word, i32 left, i32 right) {
    return (S)((S)((u32)word << left) >> right);
}
DEVICE i32 rescaled(i32 v, i32 slope, i32 intercept) {  // modulo 2^32: the product alone may overflow
    return (i32)((u32)v * (u32)slope + (u32)intercept);
}
DEVICE f64 rescaled(i32 v, f64 slope, f64 intercept) { return v * slope + intercept; }

// src and dst hold n words in slices of slice_size, are aligned to 16 bytes, and may be the same memory if as wide.
// The caller has made sure that each result fits D; F is i32 for exact integers and f64 for real factors.
template <class S, class D, class F>
DEVICE void modality(i64 thread, const S* src, D* dst, i64 n, i64 slice_size, const F* slope, const F* intercept,
                     i32 left, i32 right) {
    const i64 i = thread * LANES, z = i / slice_size;
    if (i + LANES <= n && i + LANES <= (z + 1) * slice_size) {
        const F a = slope[z], b = intercept[z];
        map_lanes(src + i, dst + i, [=](S word) { return (D)rescaled((i32)unpacked(word, left, right), a, b); });
    } else
        for (i64 j = i; j < n && j < i + LANES; ++j)
            dst[j] = (D)rescaled((i32)unpacked(src[j], left, right), slope[j / slice_size], intercept[j / slice_size]);
}
#define MODALITY(NAME, S, D, F)                                                                                      \
    KERNEL NAME(const S* src, D* dst, i64 n, i64 slice_size, const F* __restrict__ slope,                            \
                const F* __restrict__ intercept, i32 left, i32 right) {                                              \
        modality((i64)blockIdx.x * blockDim.x + threadIdx.x, src, dst, n, slice_size, slope, intercept, left, right); \
    }
#define MODALITY_FROM(S)                      \
    MODALITY(modality_##S##_i16, S, i16, i32) \
    MODALITY(modality_##S##_i32, S, i32, i32) \
    MODALITY(modality_##S##_f32, S, f32, f64)
MODALITY_FROM(u8)
MODALITY_FROM(i8)
MODALITY_FROM(u16)
MODALITY_FROM(i16)

// range[2 z], range[2 z + 1]: least and greatest stored value of slice z, to be initialised by the caller. `stored` takes
// it out of a word. blockIdx.y is the slice; the threads of x share it in packs of LANES.
template <class S, class F>
DEVICE void range_of(i64 thread, i64 step, const S* p, i64 slice_size, F stored, i32* range) {
    if (thread * LANES >= slice_size) return;
    S low[LANES], high[LANES];
    for (int l = 0; l < LANES; ++l) low[l] = high[l] = stored(p[thread * LANES]);
    i64 i = thread * LANES;
    for (; i + LANES <= slice_size; i += step * LANES)
        for (int l = 0; l < LANES; ++l) {
            const S v = stored(p[i + l]);
            low[l] = v < low[l] ? v : low[l];
            high[l] = v > high[l] ? v : high[l];
        }
    S least = low[0], greatest = high[0];
    for (int l = 1; l < LANES; ++l) {
        least = low[l] < least ? low[l] : least;
        greatest = high[l] > greatest ? high[l] : greatest;
    }
    for (; i < slice_size; ++i) {
        const S v = stored(p[i]);
        least = v < least ? v : least;
        greatest = v > greatest ? v : greatest;
    }
    atomicMin(range, (i32)least);
    atomicMax(range + 1, (i32)greatest);
}
#define RANGE(S)                                                                                                   \
    KERNEL range_##S(const S* __restrict__ src, i64 slice_size, i32 left, i32 right, i32* range) {                 \
        const i64 thread = (i64)blockIdx.x * blockDim.x + threadIdx.x, step = (i64)gridDim.x * blockDim.x;         \
        const S* slice = src + blockIdx.y * slice_size;                                                            \
        i32* own = range + 2 * (i64)blockIdx.y;                                                                    \
        if (left == 0 && right == 0) /* a pass at the speed of memory */                                           \
            range_of(thread, step, slice, slice_size, [](S word) { return word; }, own);                           \
        else                                                                                                       \
            range_of(thread, step, slice, slice_size, [=](S word) { return unpacked(word, left, right); }, own);   \
    }
RANGE(u8)
RANGE(i8)
RANGE(u16)
RANGE(i16)
