// Copy of the box of shape (oz, oy, ox) that starts at voxel (z0, y0, x0) of a volume of shape (nz, ny, nx); the box may
// reach beyond the volume, where it is filled. Elements are told apart by their size alone.
#include "gpuprep.cuh"

#define PAD(NAME, T)                                                                                             \
    KERNEL NAME(const T* __restrict__ src, T* __restrict__ dst, i32 nz, i32 ny, i32 nx, i32 oz, i32 oy, i32 ox,  \
                i32 z0, i32 y0, i32 x0, T fill) {                                                                \
        const i32 first = ROW_LANE(0), last = ROW_LANE(LANES - 1);                                               \
        const i32 y = (i32)(blockIdx.y * blockDim.y + threadIdx.y), sy = y + y0;                                 \
        if (first >= ox || y >= oy) return;                                                                      \
        for (i32 z = (i32)blockIdx.z; z < oz; z += (i32)gridDim.z) {                                             \
            const i32 sz = z + z0;                                                                               \
            const bool row_inside = sz >= 0 && sz < nz && sy >= 0 && sy < ny;                                    \
            T* q = dst + ((i64)z * oy + y) * ox;                                                                 \
            const i64 p = ((i64)sz * ny + sy) * nx + x0;                                                         \
            if (row_inside && first + x0 >= 0 && last + x0 < nx && last < ox)                                    \
                for (int l = 0; l < LANES; ++l) q[ROW_LANE(l)] = src[p + ROW_LANE(l)];                           \
            else                                                                                                 \
                for (int l = 0; l < LANES; ++l) {                                                                \
                    const i32 x = ROW_LANE(l), sx = x + x0;                                                      \
                    if (x < ox) q[x] = row_inside && sx >= 0 && sx < nx ? src[p + x] : fill;                     \
                }                                                                                                \
        }                                                                                                        \
    }
PAD(pad_1, u8)
PAD(pad_2, u16)
PAD(pad_4, u32)

// Planes moved each by its own number of pixels: dst[z, y, x] = src[z, y - down[z], x - right[z]], beyond src fill[z].
#define MOVE(NAME, T)                                                                                            \
    KERNEL NAME(const T* __restrict__ src, T* __restrict__ dst, const i32* __restrict__ down,                    \
                const i32* __restrict__ right, const T* __restrict__ fill, i32 nz, i32 ny, i32 nx) {             \
        const i32 x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;          \
        const i32 z = blockIdx.z;                                                                                \
        if (x >= nx || y >= ny || z >= nz) return;                                                               \
        const i32 sy = y - down[z], sx = x - right[z];                                                           \
        const bool inside = sy >= 0 && sy < ny && sx >= 0 && sx < nx;                                            \
        dst[((i64)z * ny + y) * nx + x] = inside ? src[((i64)z * ny + sy) * nx + sx] : fill[z];                  \
    }
MOVE(move_1, u8)
MOVE(move_2, u16)
MOVE(move_4, u32)
