// Copies of boxes that may reach beyond what they are cut out of, where they are filled. Elements are told apart by their
// size alone.
#include "gpuprep.cuh"

// Columns begin … end - 1 of thread x, of those that share the row.
template <class T>
DEVICE void fill_columns(T* dst, i32 begin, i32 end, T fill, i32 x) {
    for (i32 i = begin + x; i < end; i += ROW_THREADS) dst[i] = fill;
}
template <class T>
DEVICE void copy_columns(const T* __restrict__ src, T* __restrict__ dst, i32 begin, i32 end, i32 x) {
    i32 i = begin + x;
    for (; end - i > (LANES - 1) * ROW_THREADS; i += LANES * ROW_THREADS)
        for (int l = 0; l < LANES; ++l) dst[i + l * ROW_THREADS] = src[i + l * ROW_THREADS];
    const i32 left = (end - i + ROW_THREADS - 1) / ROW_THREADS;
    FIRST_LANES(l, left) dst[i + l * ROW_THREADS] = src[i + l * ROW_THREADS];
}

DEVICE i32 clamped(i64 v, i32 most) { return v < 0 ? 0 : v > most ? most : (i32)v; }

// A row of ox elements that starts at element x0 of one of nx (0: there is none).
template <class T>
DEVICE void pad_row(const T* src, i32 nx, T* dst, i32 ox, i32 x0, T fill, i32 x) {
    const i32 begin = clamped(-(i64)x0, ox), end = clamped((i64)nx - x0, ox);
    fill_columns(dst, 0, begin, fill, x);
    copy_columns(src + x0, dst, begin, end, x);
    fill_columns(dst, end, ox, fill, x);
}

// The box of shape (oz, oy, ox) that starts at voxel (z0, y0, x0) of a volume of shape (nz, ny, nx).
#define PAD(NAME, T)                                                                                                 \
    KERNEL NAME(const T* __restrict__ src, T* __restrict__ dst, i32 nz, i32 ny, i32 nx, i32 oz, i32 oy, i32 ox,      \
                i32 z0, i32 y0, i32 x0, T fill) {                                                                    \
        const i32 y = (i32)(blockIdx.x * blockDim.y + threadIdx.y), sy = y + y0;                                     \
        if (y >= oy) return;                                                                                         \
        for (i32 z = (i32)blockIdx.y; z < oz; z += (i32)gridDim.y) {                                                 \
            const i32 sz = z + z0;                                                                                   \
            const bool is_inside = sz >= 0 && sz < nz && sy >= 0 && sy < ny;                                         \
            pad_row(src + ((i64)sz * ny + sy) * nx, is_inside ? nx : 0, dst + ((i64)z * oy + y) * ox, ox, x0, fill,  \
                    (i32)threadIdx.x);                                                                               \
        }                                                                                                            \
    }
PAD(pad_1, u8)
PAD(pad_2, u16)
PAD(pad_4, u32)

// Planes moved each by its own number of pixels: dst[z, y, x] = src[z, y - down[z], x - right[z]], beyond src fill[z].
#define MOVE(NAME, T)                                                                                                \
    KERNEL NAME(const T* __restrict__ src, T* __restrict__ dst, const i32* __restrict__ down,                        \
                const i32* __restrict__ right, const T* __restrict__ fill, i32 nz, i32 ny, i32 nx) {                 \
        const i32 y = (i32)(blockIdx.x * blockDim.y + threadIdx.y);                                                  \
        if (y >= ny) return;                                                                                         \
        for (i32 z = (i32)blockIdx.y; z < nz; z += (i32)gridDim.y) {                                                 \
            const i32 sy = y - down[z];                                                                              \
            pad_row(src + ((i64)z * ny + sy) * nx, sy >= 0 && sy < ny ? nx : 0, dst + ((i64)z * ny + y) * nx, nx,    \
                    -right[z], fill[z], (i32)threadIdx.x);                                                           \
        }                                                                                                            \
    }
MOVE(move_1, u8)
MOVE(move_2, u16)
MOVE(move_4, u32)
