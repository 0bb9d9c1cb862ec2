// Resampling. src and dst are whole C-order volumes; a separable kernel writes the box of dst that starts at element
// dst_first and spans nz × ny × nx voxels, one thread for kRun voxels along z. What surrounds the box is the caller's.
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

static constexpr i32 kRun = 16;

// An axis of a separable filter: a table of source indices and one of weights, (n, taps) each.
struct Axis {
    const i32* index;
    const f32* weight;
    i32 taps;
};
DEVICE Axis from(Axis axis, i32 position) {
    return {axis.index + (i64)position * axis.taps, axis.weight + (i64)position * axis.taps, axis.taps};
}
struct Axes {
    Axis z, y, x;
    i64 row, page;  // of src
};

// A voxel is the sum over tz of wz * (sum over tx of wx * (sum over ty of wy * src[iz, iy, ix])), each sum one chain of fmaf
// from 0 in the order of the taps. The sums over x and y are those of a plane of src at (y, x).
template <class T>
DEVICE f32 filtered(const T* plane, const Axes& axes) {
    f32 in_plane = 0.f;
    for (i32 b = 0; b < axes.x.taps; ++b) {
        const T* column = plane + axes.x.index[b];
        f32 in_column = 0.f;
        for (i32 c = 0; c < axes.y.taps; ++c)
            in_column = fmaf(axes.y.weight[c], (f32)column[axes.y.index[c] * axes.row], in_column);
        in_plane = fmaf(axes.x.weight[b], in_column, in_plane);
    }
    return in_plane;
}
// Voxels one above the other, `count` of them from *dst on. Planes are filtered once for all that need them: plane i is held
// in place i % kHeld until another one takes it.
template <class T, class D, class F>
DEVICE void filter_run(const T* src, Axes axes, D* dst, i64 dst_page, i32 count, F store) {
    constexpr i32 kHeld = 8;
    i32 plane[kHeld];
    f32 held[kHeld];
    for (i32 h = 0; h < kHeld; ++h) plane[h] = -1;
    ROLLED  // for sm_100 and later NVRTC unrolls it otherwise: five times the file's code, a minute to compile
    for (; count > 0; --count, dst += dst_page, axes.z = from(axes.z, 1)) {
        f32 voxel = 0.f;
        for (i32 t = 0; t < axes.z.taps; ++t) {
            const i32 wanted = axes.z.index[t], h = (u32)wanted % kHeld;
            if (plane[h] != wanted) plane[h] = wanted, held[h] = filtered(src + wanted * axes.page, axes);
            voxel = fmaf(axes.z.weight[t], held[h], voxel);
        }
        store(*dst, voxel);
    }
}

// The same for one tap or two along each axis, for kRows rows at once, with all that voxels have in common in registers.
static constexpr i32 kRows = 2;
template <class T>
struct Corners {
    i32 plane;
    const T* at[kRows][2];  // by row and tap along y, at the first tap along x
    i64 to_second_x;
    f32 w_x[2], w_y[kRows][2];
    bool has_second_x, has_second_y;
};
template <class T>
DEVICE Corners<T> first_corners(const T* src, const Axes& axes, i32 rows) {
    const i32 second_x = axes.x.taps - 1, second_y = axes.y.taps - 1;
    Corners<T> corners;
    corners.plane = 0;
    corners.to_second_x = axes.x.index[second_x] - axes.x.index[0];
    corners.w_x[0] = axes.x.weight[0], corners.w_x[1] = axes.x.weight[second_x];
    corners.has_second_x = second_x > 0, corners.has_second_y = second_y > 0;
    for (i32 r = 0; r < kRows; ++r) {
        const Axis y = from(axes.y, r < rows ? r : 0);
        for (i32 c = 0; c < 2; ++c) {
            corners.at[r][c] = src + y.index[c * second_y] * axes.row + axes.x.index[0];
            corners.w_y[r][c] = y.weight[c * second_y];
        }
    }
    return corners;
}
struct Plane {
    i32 index;
    f32 value[kRows];
};
// Moves the corners to a plane and interpolates there.
template <class T>
DEVICE Plane interpolated(Corners<T>& corners, i32 index, i64 page) {
    const i64 by = (index - corners.plane) * page;
    corners.plane = index;
    Plane plane = {index, {}};
    for (i32 r = 0; r < kRows; ++r) {
        for (i32 c = 0; c < 2; ++c) corners.at[r][c] += by;
        f32 column[2];
        for (i32 b = 0; b < 2; ++b) {
            const i64 x = b * corners.to_second_x;
            column[b] = fmaf(corners.w_y[r][0], (f32)corners.at[r][0][x], 0.f);
            if (corners.has_second_y) column[b] = fmaf(corners.w_y[r][1], (f32)corners.at[r][1][x], column[b]);
        }
        plane.value[r] = fmaf(corners.w_x[0], column[0], 0.f);
        if (corners.has_second_x) plane.value[r] = fmaf(corners.w_x[1], column[1], plane.value[r]);
    }
    return plane;
}
template <class T, class D, class F>
DEVICE void interpolate_run(const T* src, Axes axes, D* dst, i64 dst_row, i64 dst_page, i32 rows, i32 count, F store) {
    Corners<T> corners = first_corners(src, axes, rows);
    Plane low = {-1, {}}, high = low;
    const i32 second = axes.z.taps - 1;
    for (; count > 0; --count, dst += dst_page, axes.z = from(axes.z, 1)) {
        const i32 wanted = axes.z.index[0], also_wanted = axes.z.index[second];
        if (wanted != low.index || also_wanted != high.index) {
            const Plane before = low;
            if (wanted == high.index)
                low = high;
            else if (wanted != low.index)
                low = interpolated(corners, wanted, axes.page);
            if (also_wanted == low.index)
                high = low;
            else if (also_wanted == before.index)
                high = before;
            else if (also_wanted != high.index)
                high = interpolated(corners, also_wanted, axes.page);
        }
        const f32 w_low = axes.z.weight[0], w_high = axes.z.weight[second];
        for (i32 r = 0; r < rows && r < kRows; ++r) {
            const f32 voxel = fmaf(w_low, low.value[r], 0.f);
            store(dst[r * dst_row], second ? fmaf(w_high, high.value[r], voxel) : voxel);
        }
    }
}

#define SEPARABLE(T, D)                                                                                              \
    const T *__restrict__ src, D *__restrict__ dst, const i32 *__restrict__ z_index,                                 \
        const f32 *__restrict__ z_weight, i32 z_taps, const i32 *__restrict__ y_index,                               \
        const f32 *__restrict__ y_weight, i32 y_taps, const i32 *__restrict__ x_index,                               \
        const f32 *__restrict__ x_weight, i32 x_taps, i32 nz, i32 ny, i32 nx, i64 src_row, i64 src_page,             \
        i64 dst_first, i64 dst_row, i64 dst_page
#define RUN(ROWS)                                                                                                    \
    const i32 x = blockIdx.x * blockDim.x + threadIdx.x, y = (blockIdx.y * blockDim.y + threadIdx.y) * ROWS;         \
    const i32 z = (i32)(blockIdx.z * blockDim.z + threadIdx.z) * kRun, count = nz - z < kRun ? nz - z : kRun;        \
    if (x >= nx || y >= ny || count <= 0) return;                                                                    \
    dst += dst_first + z * dst_page + y * dst_row + x;
#define SEPARABLE_KERNELS(NAME, PARAMETERS, STORE)                                                                   \
    KERNEL resample_##NAME PARAMETERS {                                                                              \
        RUN(1)                                                                                                       \
        filter_run(src, AXES, dst, dst_page, count, STORE);                                                          \
    }                                                                                                                \
    KERNEL linear_##NAME PARAMETERS {                                                                                \
        RUN(kRows)                                                                                                   \
        interpolate_run(src, AXES, dst, dst_row, dst_page, ny - y < kRows ? ny - y : kRows, count, STORE);           \
    }
#define AXES                                                                                                         \
    Axes { from({z_index, z_weight, z_taps}, z), from({y_index, y_weight, y_taps}, y),                               \
           from({x_index, x_weight, x_taps}, x), src_row, src_page }

#define RESAMPLE(T) SEPARABLE_KERNELS(T, (SEPARABLE(T, T)), [](T& out, f32 voxel) { put(out, voxel); })
RESAMPLE(u8)
RESAMPLE(i16)
RESAMPLE(u16)
RESAMPLE(i32)
RESAMPLE(f32)

// The same, with a window of window.cu on the value as RESAMPLE stores it: two passes in one, bit for bit.
#define RESAMPLE_WINDOW(T, D)                                                                                        \
    SEPARABLE_KERNELS(window_##T##_##D, (SEPARABLE(T, D), f32 low, f32 scale, f32 bottom, f32 top),                  \
                      [=](D& out, f32 voxel) {                                                                       \
                          T value;                                                                                   \
                          put(value, voxel);                                                                         \
                          put(out, fmaf((f32)value - low, scale, bottom), bottom, top);                              \
                      })
RESAMPLE_WINDOW(i16, u8)
RESAMPLE_WINDOW(i16, f32)
RESAMPLE_WINDOW(i32, u8)
RESAMPLE_WINDOW(i32, f32)
RESAMPLE_WINDOW(f32, u8)
RESAMPLE_WINDOW(f32, f32)
#define RESAMPLE_CLAMP(T)                                                                                            \
    SEPARABLE_KERNELS(clamp_##T, (SEPARABLE(T, T), T low, T high), [=](T& out, f32 voxel) {                          \
        T value;                                                                                                     \
        put(value, voxel);                                                                                           \
        out = clamped(value, low, high);                                                                             \
    })
RESAMPLE_CLAMP(i16)
RESAMPLE_CLAMP(i32)
RESAMPLE_CLAMP(f32)

// dst[z,y,x] = src[iz, iy, ix], bit for bit: labels, nearest, crops. By element size; any type of that size may pass.
#define GATHER(NAME, T)                                                                                              \
    KERNEL NAME(const T* __restrict__ src, T* __restrict__ dst, const i32* __restrict__ z_index,                     \
                const i32* __restrict__ y_index, const i32* __restrict__ x_index, i32 nz, i32 ny, i32 nx,            \
                i64 src_row, i64 src_page, i64 dst_first, i64 dst_row, i64 dst_page) {                               \
        RUN(1)                                                                                                       \
        src += y_index[y] * src_row + x_index[x];                                                                    \
        z_index += z;                                                                                                \
        if (count == kRun) { /* all loads are on their way before the first is waited for */                         \
            T voxels[kRun];                                                                                          \
            for (i32 k = 0; k < kRun; ++k) voxels[k] = src[z_index[k] * src_page];                                   \
            for (i32 k = 0; k < kRun; ++k, dst += dst_page) *dst = voxels[k];                                        \
        } else                                                                                                       \
            for (i32 k = 0; k < count; ++k, dst += dst_page) *dst = src[z_index[k] * src_page];                      \
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
