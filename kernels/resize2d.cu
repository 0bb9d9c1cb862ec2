// Antialiased resizing of planes by a separable filter whose taps are consecutive rows and columns.
#include "gpuprep.cuh"

static constexpr i32 kChains = 8;  // sums along x run in as many chains, which host vectors hold

DEVICE f32 limited(f32 v, f32 low, f32 high) {
    v = v > low ? v : low;
    return v < high ? v : high;
}
DEVICE i32 half_away(f32 v) { return (i32)(v < 0.f ? v - 0.5f : v + 0.5f); }
DEVICE void put(f32& d, f32 v) { d = v; }
DEVICE void put(u8& d, f32 v) { d = (u8)half_away(limited(v, 0.f, 255.f)); }
DEVICE void put(u16& d, f32 v) { d = (u16)half_away(limited(v, 0.f, 65535.f)); }
DEVICE void put(i16& d, f32 v) { d = (i16)half_away(limited(v, -32768.f, 32767.f)); }
DEVICE f32 sum_chains(const f32* s) { return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7])); }

// The sum over columns of x_weight times the sum over rows of y_weight times src, which begins at the first of `rows` rows.
// Columns from src_nx on count as zero. Sums along y are one chain of fmaf in the order of the rows; along x, tap t belongs
// to chain t % kChains.
//
// The columns of a tap group are added up together: they share the weights of the rows, and lie side by side.
template <class T>
DEVICE f32 filtered(const T* src, i64 src_row, i32 src_nx, const f32* y_weight, i32 rows, i32 x_first,
                    const f32* x_weight, i32 x_taps) {
    f32 sums[kChains];
    for (i32 k = 0; k < kChains; ++k) sums[k] = 0.f;
    for (i32 t = 0; t < x_taps; t += kChains) {
        const T* in = src + x_first + t;
        const i32 columns = src_nx - x_first - t;
        f32 in_column[kChains];
        for (i32 k = 0; k < kChains; ++k) in_column[k] = 0.f;
        if (columns >= kChains)
            for (i32 r = 0; r < rows; ++r, in += src_row)
                for (i32 k = 0; k < kChains; ++k) in_column[k] = fmaf(y_weight[r], (f32)in[k], in_column[k]);
        else
            for (i32 r = 0; r < rows; ++r, in += src_row)
                for (i32 k = 0; k < kChains; ++k)
                    if (k < columns) in_column[k] = fmaf(y_weight[r], (f32)in[k], in_column[k]);
        for (i32 k = 0; k < kChains; ++k) sums[k] = fmaf(x_weight[t + k], in_column[k], sums[k]);
    }
    return sum_chains(sums);
}

// dst[z, y, x], of shape (nz, ny, nx), is src filtered. The taps of output x are the source columns x_first[x] …
// x_first[x] + x_taps - 1, likewise for rows, which end before src_ny; x_taps is a multiple of kChains.
#define RESIZE(NAME, T)                                                                                              \
    KERNEL NAME(const T* __restrict__ src, T* __restrict__ dst, const i32* __restrict__ y_first,                     \
                const f32* __restrict__ y_weight, i32 y_taps, const i32* __restrict__ x_first,                       \
                const f32* __restrict__ x_weight, i32 x_taps, i32 nz, i32 ny, i32 nx, i32 src_ny, i32 src_nx,        \
                i64 src_row, i64 src_page) {                                                                         \
        const i32 x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;              \
        const i32 z = blockIdx.z;                                                                                    \
        if (x >= nx || y >= ny || z >= nz) return;                                                                   \
        const i32 rows = y_taps < src_ny - y_first[y] ? y_taps : src_ny - y_first[y];                                \
        put(dst[((i64)z * ny + y) * nx + x],                                                                         \
            filtered(src + z * src_page + y_first[y] * src_row, src_row, src_nx, y_weight + (i64)y * y_taps, rows,   \
                     x_first[x], x_weight + (i64)x * x_taps, x_taps));                                               \
    }
RESIZE(resize_u8, u8)
RESIZE(resize_u16, u16)
RESIZE(resize_i16, i16)
RESIZE(resize_f32, f32)

// Each plane in its own way: the box of plane z begins at element start[z] of src. how[z] holds its rows and columns, those
// that it becomes, and which tables it takes along y and x; tables are as of RESIZE, one after the other, for ny rows
// and nx columns each. What it becomes is the upper left of dst[z], of shape (nz, ny, nx); the rest is fill[z].
static constexpr i32 kHow = 6;
#define FIT(NAME, T)                                                                                                 \
    KERNEL NAME(const T* __restrict__ src, T* __restrict__ dst, const i64* __restrict__ start,                       \
                const i32* __restrict__ how, const T* __restrict__ fill, const i32* __restrict__ y_first,            \
                const f32* __restrict__ y_weight, i32 y_taps, const i32* __restrict__ x_first,                       \
                const f32* __restrict__ x_weight, i32 x_taps, i32 nz, i32 ny, i32 nx, i64 src_row) {                 \
        const i32 x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;              \
        const i32 z = blockIdx.z;                                                                                    \
        if (x >= nx || y >= ny || z >= nz) return;                                                                   \
        const i32* own = how + z * kHow;                                                                             \
        T& out = dst[((i64)z * ny + y) * nx + x];                                                                    \
        if (y >= own[2] || x >= own[3]) {                                                                            \
            out = fill[z];                                                                                           \
            return;                                                                                                  \
        }                                                                                                            \
        const i64 at_y = (i64)own[4] * ny + y, at_x = (i64)own[5] * nx + x;                                          \
        const i32 first = y_first[at_y], rows = y_taps < own[0] - first ? y_taps : own[0] - first;                   \
        put(out, filtered(src + start[z] + first * src_row, src_row, own[1], y_weight + at_y * y_taps, rows,         \
                          x_first[at_x], x_weight + at_x * x_taps, x_taps));                                         \
    }
FIT(fit_u8, u8)
FIT(fit_u16, u16)
FIT(fit_i16, i16)
FIT(fit_f32, f32)
