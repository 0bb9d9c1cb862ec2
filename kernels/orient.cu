// Permuted copy: voxel (z, y, x) of dst, of shape (oz, oy, ox), is element start + z sz + y sy + x sx of src. Blocks that
// are square in x and in the axis along which src is contiguous make good use of cache lines.
#include "gpuprep.cuh"

#define ORIENT(NAME, T)                                                                                        \
    KERNEL NAME(const T* __restrict__ src, T* __restrict__ dst, i32 oz, i32 oy, i32 ox, i64 start, i64 sz,     \
                i64 sy, i64 sx) {                                                                              \
        const i32 x = (i32)(blockIdx.x * blockDim.x + threadIdx.x), y = (i32)(blockIdx.y * blockDim.y + threadIdx.y); \
        const i32 z = (i32)(blockIdx.z * blockDim.z + threadIdx.z);                                            \
        if (x < ox && y < oy && z < oz) dst[((i64)z * oy + y) * ox + x] = src[start + z * sz + y * sy + x * sx]; \
    }
ORIENT(orient_1, u8)
ORIENT(orient_2, u16)
ORIENT(orient_4, u32)
