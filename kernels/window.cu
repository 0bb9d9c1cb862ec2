// Slope, intercept, window and cast in one pass: dst = saturate(src * scale + offset) to [low, high].
// src and dst are aligned to 16 bytes. Integers round to nearest even; NaN becomes `low` there and stays NaN in float.
#include "gpuprep.cuh"

DEVICE void put(f32& d, f32 v, f32 low, f32 high) {
    v = v < low ? low : v;  // not fminf: it blocks vectorisation; NaN stays
    d = v > high ? high : v;
}
template <class D>
DEVICE void put(D& d, f32 v, f32 low, f32 high) {
    v = v > low ? v : low;  // NaN becomes low
    d = (D)__float2int_rn(v < high ? v : high);
}

#define WINDOW(NAME, S, D)                                                                                      \
    KERNEL NAME(const S* __restrict__ src, D* __restrict__ dst, i64 n, f32 scale, f32 offset, f32 low, f32 high) { \
        const i64 i = ((i64)blockIdx.x * blockDim.x + threadIdx.x) * LANES;                                     \
        if (i + LANES <= n) {                                                                                   \
            const Pack<S> p = *(const Pack<S>*)(src + i);                                                       \
            Pack<D> q;                                                                                          \
            for (int l = 0; l < LANES; ++l) put(q.v[l], fmaf((f32)p.v[l], scale, offset), low, high);           \
            *(Pack<D>*)(dst + i) = q;                                                                           \
        } else                                                                                                  \
            for (i64 j = i; j < n; ++j) put(dst[j], fmaf((f32)src[j], scale, offset), low, high);               \
    }
WINDOW(window_i16_u8, i16, u8)
WINDOW(window_i16_i16, i16, i16)
WINDOW(window_i16_f32, i16, f32)
WINDOW(window_u16_u8, u16, u8)
WINDOW(window_u16_f32, u16, f32)
WINDOW(window_i32_u8, i32, u8)
WINDOW(window_i32_f32, i32, f32)
WINDOW(window_f32_u8, f32, u8)
WINDOW(window_f32_i16, f32, i16)
WINDOW(window_f32_f32, f32, f32)
