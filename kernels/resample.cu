// Resampling. src and dst are whole C-order volumes; a separable kernel writes the box of dst that starts at element
// dst_first and spans nz × ny × nx voxels, one thread a voxel, x fastest. What surrounds the box is the caller's.
#include "gpuprep.cuh"
#include "window.cuh"

DEVICE i32 round_between(f32 v, f32 low, f32 high) {
    v = v > low ? v : low;
    return __float2int_rn(v < high ? v : high);
}
DEVICE void put(f32& d, f32 v) { d = v; }
DEVICE void put(u8& d, f32 v) { d = (u8)round_between(v, 0.f, 255.f); }
DEVICE void put(i16& d, f32 v) { d = (i16)round_between(v, -32768.f, 32767.f); }
DEVICE void put(u16& d, f32 v) { d = (u16)round_between(v, 0.f, 65535.f); }
DEVICE void put(i32& d, f32 v) { d = round_between(v, -2147483648.f, 2147483520.f); }  // largest f32 below 2^31

// An axis of a separable filter: a table of source indices and one of weights, (n, taps) each.
struct Axis {
    const i32* index;
    const f32* weight;
    i32 taps;
};
// sum over tz of wz * (sum over tx of wx * (sum over ty of wy * src[iz, iy, ix])), each sum one chain of fmaf from 0 in
// the order of the taps.
template <class T>
DEVICE f32 filtered(const T* src, Axis az, Axis ay, Axis ax, i32 z, i32 y, i32 x, i64 src_row, i64 src_page) {
    const i64 zt = (i64)z * az.taps, yt = (i64)y * ay.taps, xt = (i64)x * ax.taps;
    f32 voxel = 0.f;
    for (i32 a = 0; a < az.taps; ++a) {
        const T* page = src + az.index[zt + a] * src_page;
        f32 in_plane = 0.f;
        for (i32 b = 0; b < ax.taps; ++b) {
            const T* column = page + ax.index[xt + b];
            f32 in_column = 0.f;
            for (i32 c = 0; c < ay.taps; ++c)
                in_column = fmaf(ay.weight[yt + c], (f32)column[ay.index[yt + c] * src_row], in_column);
            in_plane = fmaf(ax.weight[xt + b], in_column, in_plane);
        }
        voxel = fmaf(az.weight[zt + a], in_plane, voxel);
    }
    return voxel;
}
#define SEPARABLE(T, D)                                                                                              \
    const T *__restrict__ src, D *__restrict__ dst, const i32 *__restrict__ z_index,                                 \
        const f32 *__restrict__ z_weight, i32 z_taps, const i32 *__restrict__ y_index,                               \
        const f32 *__restrict__ y_weight, i32 y_taps, const i32 *__restrict__ x_index,                               \
        const f32 *__restrict__ x_weight, i32 x_taps, i32 nz, i32 ny, i32 nx, i64 src_row, i64 src_page,             \
        i64 dst_first, i64 dst_row, i64 dst_page
#define FILTER_VOXEL                                                                                                 \
    const i32 x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;                  \
    const i32 z = blockIdx.z * blockDim.z + threadIdx.z;                                                             \
    if (x >= nx || y >= ny || z >= nz) return;                                                                       \
    const f32 voxel = filtered(src, {z_index, z_weight, z_taps}, {y_index, y_weight, y_taps},                        \
                               {x_index, x_weight, x_taps}, z, y, x, src_row, src_page);                             \
    const i64 at = dst_first + z * dst_page + y * dst_row + x;

#define RESAMPLE(NAME, T)          \
    KERNEL NAME(SEPARABLE(T, T)) { \
        FILTER_VOXEL               \
        put(dst[at], voxel);       \
    }
RESAMPLE(resample_u8, u8)
RESAMPLE(resample_i16, i16)
RESAMPLE(resample_u16, u16)
RESAMPLE(resample_i32, i32)
RESAMPLE(resample_f32, f32)

// The same, with a window of window.cu on the value as RESAMPLE stores it: two passes in one, bit for bit.
#define RESAMPLE_WINDOW(NAME, T, D)                                            \
    KERNEL NAME(SEPARABLE(T, D), f32 low, f32 scale, f32 bottom, f32 top) {    \
        FILTER_VOXEL                                                           \
        T value;                                                               \
        put(value, voxel);                                                     \
        put(dst[at], fmaf((f32)value - low, scale, bottom), bottom, top);      \
    }
RESAMPLE_WINDOW(resample_window_i16_u8, i16, u8)
RESAMPLE_WINDOW(resample_window_i16_f32, i16, f32)
RESAMPLE_WINDOW(resample_window_i32_u8, i32, u8)
RESAMPLE_WINDOW(resample_window_i32_f32, i32, f32)
RESAMPLE_WINDOW(resample_window_f32_u8, f32, u8)
RESAMPLE_WINDOW(resample_window_f32_f32, f32, f32)
#define RESAMPLE_CLAMP(NAME, T)                    \
    KERNEL NAME(SEPARABLE(T, T), T low, T high) {  \
        FILTER_VOXEL                               \
        T value;                                   \
        put(value, voxel);                         \
        dst[at] = clamped(value, low, high);       \
    }
RESAMPLE_CLAMP(resample_clamp_i16, i16)
RESAMPLE_CLAMP(resample_clamp_i32, i32)
RESAMPLE_CLAMP(resample_clamp_f32, f32)

// dst[z,y,x] = src[iz, iy, ix], bit for bit: labels, nearest, crops. By element size; any type of that size may pass.
#define GATHER(NAME, T)                                                                                              \
    KERNEL NAME(const T* __restrict__ src, T* __restrict__ dst, const i32* __restrict__ z_index,                     \
                const i32* __restrict__ y_index, const i32* __restrict__ x_index, i32 nz, i32 ny, i32 nx,            \
                i64 src_row, i64 src_page, i64 dst_first, i64 dst_row, i64 dst_page) {                               \
        const i32 x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;              \
        const i32 z = blockIdx.z * blockDim.z + threadIdx.z;                                                         \
        if (x >= nx || y >= ny || z >= nz) return;                                                                   \
        dst[dst_first + z * dst_page + y * dst_row + x] =                                                            \
            src[z_index[z] * src_page + y_index[y] * src_row + x_index[x]];                                          \
    }
GATHER(gather_u8, u8)
GATHER(gather_u16, u16)
GATHER(gather_u32, u32)

// Coordinates of any orientation: source index = matrix * (z, y, x, 1), a 3 × 4 matrix of doubles, rounded to 2^-24 voxel
// so that a voxel centre is met exactly.
DEVICE double source_coordinate(const double* row, i32 z, i32 y, i32 x) {
    constexpr double kSteps = 16777216.0;
    return rint(fma(row[0], (double)z, fma(row[1], (double)y, fma(row[2], (double)x, row[3]))) * kSteps) / kSteps;
}
DEVICE bool within(double c, i32 n) { return c >= -0.5 && c < n - 0.5; }
DEVICE i32 edge(i32 i, i32 n) { return i < 0 ? 0 : i < n ? i : n - 1; }

// The two neighbours of a coordinate along an axis of n voxels and their weights. A neighbour without weight is replaced
// by the other one: its value, which may be NaN, does not matter.
struct Pair {
    i32 low, high;
    f32 w_low, w_high;
};
DEVICE Pair neighbours(double c, i32 n) {
    const double below = floor(c);
    const i32 i = (i32)below;
    Pair p;
    p.w_high = (f32)(c - below);
    p.w_low = 1.f - p.w_high;
    p.low = edge(i, n);
    p.high = p.w_high > 0.f ? edge(i + 1, n) : p.low;
    return p;
}
DEVICE f32 mix(Pair p, f32 low, f32 high) { return fmaf(p.w_high, high, p.w_low * low); }
template <class T>
DEVICE f32 bilinear(const T* page, Pair y, Pair x, i64 row) {
    const T *a = page + y.low * row, *b = page + y.high * row;
    return mix(y, mix(x, (f32)a[x.low], (f32)a[x.high]), mix(x, (f32)b[x.low], (f32)b[x.high]));
}

#define AFFINE_LINEAR(NAME, T)                                                                                       \
    KERNEL NAME(const T* __restrict__ src, T* __restrict__ dst, const double* __restrict__ matrix, i32 src_nz,       \
                i32 src_ny, i32 src_nx, i32 nz, i32 ny, i32 nx, T fill) {                                            \
        const i32 x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;              \
        const i32 z = blockIdx.z * blockDim.z + threadIdx.z;                                                         \
        if (x >= nx || y >= ny || z >= nz) return;                                                                   \
        const double cz = source_coordinate(matrix, z, y, x), cy = source_coordinate(matrix + 4, z, y, x);           \
        const double cx = source_coordinate(matrix + 8, z, y, x);                                                    \
        T value = fill;                                                                                              \
        if (within(cz, src_nz) && within(cy, src_ny) && within(cx, src_nx)) {                                        \
            const i64 row = src_nx, page = row * src_ny;                                                             \
            const Pair pz = neighbours(cz, src_nz), py = neighbours(cy, src_ny), px = neighbours(cx, src_nx);        \
            const T *low = src + pz.low * page, *high = src + pz.high * page;                                        \
            put(value, mix(pz, bilinear(low, py, px, row), bilinear(high, py, px, row)));                            \
        }                                                                                                            \
        dst[((i64)z * ny + y) * nx + x] = value;                                                                     \
    }
AFFINE_LINEAR(affine_linear_u8, u8)
AFFINE_LINEAR(affine_linear_i16, i16)
AFFINE_LINEAR(affine_linear_u16, u16)
AFFINE_LINEAR(affine_linear_i32, i32)
AFFINE_LINEAR(affine_linear_f32, f32)

#define AFFINE_NEAREST(NAME, T)                                                                                      \
    KERNEL NAME(const T* __restrict__ src, T* __restrict__ dst, const double* __restrict__ matrix, i32 src_nz,       \
                i32 src_ny, i32 src_nx, i32 nz, i32 ny, i32 nx, T fill) {                                            \
        const i32 x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;              \
        const i32 z = blockIdx.z * blockDim.z + threadIdx.z;                                                         \
        if (x >= nx || y >= ny || z >= nz) return;                                                                   \
        const double cz = source_coordinate(matrix, z, y, x), cy = source_coordinate(matrix + 4, z, y, x);           \
        const double cx = source_coordinate(matrix + 8, z, y, x);                                                    \
        T value = fill;                                                                                              \
        if (within(cz, src_nz) && within(cy, src_ny) && within(cx, src_nx)) {                                        \
            const i64 iz = (i64)floor(cz + 0.5), iy = (i64)floor(cy + 0.5), ix = (i64)floor(cx + 0.5);               \
            value = src[(iz * src_ny + iy) * src_nx + ix];                                                           \
        }                                                                                                            \
        dst[((i64)z * ny + y) * nx + x] = value;                                                                     \
    }
AFFINE_NEAREST(affine_nearest_u8, u8)
AFFINE_NEAREST(affine_nearest_u16, u16)
AFFINE_NEAREST(affine_nearest_u32, u32)

// Planes with positions of their own onto a regular grid. Output slice z lies between the planes plane[z,0] and plane[z,1]
// with weights weight[z,0] and weight[z,1]; outside where weight[z,0] is 0. Output voxel (y, x) meets plane p at
// row y + shift[p,0] and column x + shift[p,1].
#define REGULARIZE(NAME, T)                                                                                          \
    KERNEL NAME(const T* __restrict__ src, T* __restrict__ dst, const i32* __restrict__ plane,                       \
                const f32* __restrict__ weight, const double* __restrict__ shift, i32 src_ny, i32 src_nx, i32 nz,    \
                i32 ny, i32 nx, T fill) {                                                                            \
        const i32 x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;              \
        const i32 z = blockIdx.z * blockDim.z + threadIdx.z;                                                         \
        if (x >= nx || y >= ny || z >= nz) return;                                                                   \
        f32 voxel = 0.f;                                                                                             \
        bool inside = weight[2 * z] > 0.f;                                                                           \
        for (i32 t = 2 * z; t < 2 * z + 2; ++t) {                                                                    \
            if (!(weight[t] > 0.f)) continue;                                                                        \
            const double cy = y + shift[2 * plane[t]], cx = x + shift[2 * plane[t] + 1];                             \
            inside = inside && within(cy, src_ny) && within(cx, src_nx);                                             \
            if (!inside) break;                                                                                      \
            const T* page = src + (i64)plane[t] * src_ny * src_nx;                                                   \
            voxel = fmaf(weight[t], bilinear(page, neighbours(cy, src_ny), neighbours(cx, src_nx), src_nx), voxel);  \
        }                                                                                                            \
        T value = fill;                                                                                              \
        if (inside) put(value, voxel);                                                                               \
        dst[((i64)z * ny + y) * nx + x] = value;                                                                     \
    }
REGULARIZE(regularize_u8, u8)
REGULARIZE(regularize_i16, i16)
REGULARIZE(regularize_u16, u16)
REGULARIZE(regularize_i32, i32)
REGULARIZE(regularize_f32, f32)
