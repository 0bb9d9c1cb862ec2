// Intensity windows over n elements. src and dst are aligned to 16 bytes and may be the same array if of one type.
#include "gpuprep.cuh"
#include "window.cuh"

// dst = bottom + (src - low) * scale, saturated to [bottom, top] and cast: window, rescale and cast in one pass.
template <class S, class D>
DEVICE void window(i64 thread, const S* src, D* dst, i64 n, f32 low, f32 scale, f32 bottom, f32 top) {
    const auto apply = [=](S v) {
        D d;
        put(d, fmaf((f32)v - low, scale, bottom), bottom, top);
        return d;
    };
    const i64 i = thread * LANES;
    if (i + LANES <= n)
        map_lanes(src + i, dst + i, apply);
    else
        for (i64 j = i; j < n; ++j) dst[j] = apply(src[j]);
}
#define WINDOW(NAME, S, D)                                                                              \
    KERNEL NAME(const S* src, D* dst, i64 n, f32 low, f32 scale, f32 bottom, f32 top) {                 \
        window((i64)blockIdx.x * blockDim.x + threadIdx.x, src, dst, n, low, scale, bottom, top);       \
    }
WINDOW(window_i16_u8, i16, u8)
WINDOW(window_i16_f32, i16, f32)
WINDOW(window_i32_u8, i32, u8)
WINDOW(window_i32_f32, i32, f32)
WINDOW(window_f32_u8, f32, u8)
WINDOW(window_f32_f32, f32, f32)

// dst = src saturated to [low, high].
template <class T>
DEVICE void clamp(i64 thread, const T* src, T* dst, i64 n, T low, T high) {
    const auto apply = [=](T v) { return clamped(v, low, high); };
    const i64 i = thread * LANES;
    if (i + LANES <= n)
        map_lanes(src + i, dst + i, apply);
    else
        for (i64 j = i; j < n; ++j) dst[j] = apply(src[j]);
}
#define CLAMP(NAME, T)                                                                      \
    KERNEL NAME(const T* src, T* dst, i64 n, T low, T high) {                               \
        clamp((i64)blockIdx.x * blockDim.x + threadIdx.x, src, dst, n, low, high);          \
    }
CLAMP(clamp_i16, i16)
CLAMP(clamp_i32, i32)
CLAMP(clamp_f32, f32)
