// Permuted copy, for axes that the voxels do not run along any more: element (o, r, x) of dst, at o dst_outer + r dst_run + x,
// is element start + o src_outer + r src_run + x src_x of src, where src_run is 1 or -1. A thread turns a square of voxels.
#include "gpuprep.cuh"

// A row of a square, read and written as a whole: a warp, 8 squares along src by 4 along dst, moves whole sectors both ways.
template <class T>
struct Side {
    static constexpr i32 n = sizeof(T) == 1 ? LANES : LANES / 2;
    static constexpr i32 bytes = sizeof(T) * n < 16 ? sizeof(T) * n : 16;
};
template <class T>
struct __align__(Side<T>::bytes) Row {
    T v[Side<T>::n];
};
template <class T>
DEVICE bool is_row(const T* p) {
    return (u64)p % Side<T>::bytes == 0;
}

// A whole square, whose rows are at addresses that allow it; false where they are not.
template <class T>
DEVICE bool turn_square(const T* src, T* dst, i64 src_run, i64 src_x, i64 dst_run) {
    constexpr i32 n = Side<T>::n;
    if (src_run < 0) src -= n - 1, dst += (n - 1) * dst_run, dst_run = -dst_run;
    if (!is_row(src) || !is_row(src + src_x) || !is_row(dst) || !is_row(dst + dst_run)) return false;
    Row<T> in[n];
    for (i32 x = 0; x < n; ++x, src += src_x) in[x] = *(const Row<T>*)src;
    for (i32 r = 0; r < n; ++r, dst += dst_run) {
        Row<T> out;
        for (i32 x = 0; x < n; ++x) out.v[x] = in[x].v[r];
        *(Row<T>*)dst = out;
    }
    return true;
}

#define ORIENT(NAME, T)                                                                                       \
    KERNEL NAME(const T* __restrict__ src, T* __restrict__ dst, i32 outer, i32 runs, i32 columns, i64 start,  \
                i64 src_outer, i64 src_run, i64 src_x, i64 dst_outer, i64 dst_run) {                          \
        constexpr i32 n = Side<T>::n;                                                                         \
        const i32 r = (i32)(blockIdx.x * blockDim.x + threadIdx.x) * n, o = (i32)blockIdx.z;                  \
        const i32 x = (i32)(blockIdx.y * blockDim.y + threadIdx.y) * n;                                       \
        if (r >= runs || x >= columns || o >= outer) return;                                                  \
        const T* from = src + start + o * src_outer + r * src_run + x * src_x;                                \
        T* to = dst + o * dst_outer + r * dst_run + x;                                                        \
        if (r + n <= runs && x + n <= columns && turn_square(from, to, src_run, src_x, dst_run)) return;      \
        const i32 rows = r + n < runs ? n : runs - r, width = x + n < columns ? n : columns - x;              \
        for (i32 i = 0; i < rows; ++i)                                                                        \
            for (i32 k = 0; k < width; ++k) to[i * dst_run + k] = from[i * src_run + k * src_x];              \
    }
ORIENT(orient_1, u8)
ORIENT(orient_2, u16)
ORIENT(orient_4, u32)
