// Antialiased resizing of boxes of planes by a separable filter whose taps are consecutive rows and columns: blend_* makes
// sums along y, which all outputs that need a column share, and filter_* sums those along x. Sums are of float32: along y
// one chain of fmaf in the order of the rows; along x tap t belongs to chain t % kChains.
#include "gpuprep.cuh"

static constexpr i32 kChains = 8;   // as many as host vectors hold
static constexpr i32 kColumns = 4;  // columns that a thread blends: 16 bytes of sums
static constexpr i32 kRows = 2;     // rows that a thread filters by the weights it has loaded

// What becomes of a plane: source rows and columns, the first `margin` of which nothing depends on, become ny rows of nx by
// tables y_table and x_table. Tables of all boxes are of one shape: the taps of output o begin at row or column first[o]
// behind the margin, and end in weights of 0 where others have more. Those along y stop at the last row; those along x
// come in whole kChains, and may go beyond the last column.
struct Box {
    i32 rows, columns, margin, ny, nx, y_table, x_table;
};

// Neighbours that a GPU moves by 16 bytes, or as many as there are.
template <class T, i32 N>
struct __align__(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Run {
    T v[N];
};
template <class T>
DEVICE bool is_run(const T* p) {
    return (u64)p % alignof(Run<T, kColumns>) == 0;
}

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

// Sums along y from the first of `rows` rows on, of kColumns columns of which `columns` are there; the others are 0.
template <bool IsWhole, class T>
DEVICE Run<f32, kColumns> blend(const T* in, i64 src_row, const f32* weight, i32 rows, i32 columns) {
    Run<f32, kColumns> sum;
    for (i32 k = 0; k < kColumns; ++k) sum.v[k] = 0.f;
    for (i32 r = 0; r < rows; ++r, in += src_row) {
        Run<T, kColumns> run;
        if (IsWhole)
            run = *(const Run<T, kColumns>*)in;
        else
            for (i32 k = 0; k < kColumns; ++k) run.v[k] = k < columns ? in[k] : (T)0;
        for (i32 k = 0; k < kColumns; ++k) sum.v[k] = fmaf(weight[r], (f32)run.v[k], sum.v[k]);
    }
    return sum;
}

// sums[z, y, column], of shape (…, band, columns), for rows y0 to y0 + band of the ny that boxes become at most; right of a box
// they are 0. start: first element of each box. columns is a multiple of kColumns.
#define BLEND(NAME, T)                                                                                                \
    KERNEL NAME(const T* __restrict__ src, f32* __restrict__ sums, const i64* __restrict__ start,                     \
                const Box* __restrict__ boxes, const i32* __restrict__ y_first, const f32* __restrict__ y_weight,     \
                i32 y_taps, i32 ny, i32 y0, i32 band, i32 columns, i64 src_row) {                                     \
        const Box box = boxes[blockIdx.z];                                                                            \
        const i32 x = (blockIdx.x * blockDim.x + threadIdx.x) * kColumns, y = blockIdx.y * blockDim.y + threadIdx.y;  \
        if (y >= band || y0 + y >= box.ny || x >= columns) return;                                                    \
        const i64 at = (i64)box.y_table * ny + y0 + y;                                                                \
        const i32 first = y_first[at], rows = y_taps < box.rows - first ? y_taps : box.rows - first;                  \
        const f32* weight = y_weight + at * y_taps;                                                                   \
        const T* in = src + start[blockIdx.z] + first * src_row + x;                                                  \
        const i32 left = box.columns - x;                                                                             \
        *(Run<f32, kColumns>*)(sums + ((i64)blockIdx.z * band + y) * columns + x) =                                   \
            left >= kColumns && is_run(in) && is_run(in + src_row) ? blend<true>(in, src_row, weight, rows, left)     \
                                                                   : blend<false>(in, src_row, weight, rows, left);   \
    }
BLEND(blend_u8, u8)
BLEND(blend_u16, u16)
BLEND(blend_i16, i16)
BLEND(blend_f32, f32)

// Rows y0 to y0 + band of dst, of shape (…, ny, nx), by the sums of blend_*: a box becomes the upper left of dst[z], the rest
// is fill[z].
#define FILTER(NAME, T)                                                                                               \
    KERNEL NAME(const f32* __restrict__ sums, T* __restrict__ dst, const Box* __restrict__ boxes,                     \
                const T* __restrict__ fill, const i32* __restrict__ x_first, const f32* __restrict__ x_weight,        \
                i32 x_taps, i32 ny, i32 nx, i32 y0, i32 band, i32 columns) {                                          \
        const Box box = boxes[blockIdx.z];                                                                            \
        const i32 x = blockIdx.x * blockDim.x + threadIdx.x, y = (blockIdx.y * blockDim.y + threadIdx.y) * kRows;     \
        if (x >= nx || y >= band) return;                                                                             \
        const i32 end = band < box.ny - y0 ? band : box.ny - y0, rows = x < box.nx ? end - y : 0;                     \
        f32 chains[kRows][kChains];                                                                                   \
        for (i32 r = 0; r < kRows; ++r)                                                                               \
            for (i32 k = 0; k < kChains; ++k) chains[r][k] = 0.f;                                                     \
        if (rows > 0) {                                                                                               \
            const i64 at = (i64)box.x_table * nx + x;                                                                 \
            const f32* in = sums + ((i64)blockIdx.z * band + y) * columns + box.margin + x_first[at];                 \
            for (i32 t = 0; t < x_taps; t += kChains) {                                                               \
                const auto w = *(const Run<f32, kChains>*)(x_weight + at * x_taps + t);                               \
                for (i32 r = 0; r < kRows; ++r) {                                                                     \
                    const f32* row = in + (i64)(r < rows ? r : 0) * columns + t;                                      \
                    for (i32 k = 0; k < kChains; ++k) chains[r][k] = fmaf(w.v[k], row[k], chains[r][k]);              \
                }                                                                                                     \
            }                                                                                                         \
        }                                                                                                             \
        T* out = dst + ((i64)blockIdx.z * ny + y0 + y) * nx + x;                                                      \
        for (i32 r = 0; r < kRows && y + r < band; ++r, out += nx)                                                    \
            if (r < rows)                                                                                             \
                put(*out, sum_chains(chains[r]));                                                                     \
            else                                                                                                      \
                *out = fill[blockIdx.z];                                                                              \
    }
FILTER(filter_u8, u8)
FILTER(filter_u16, u16)
FILTER(filter_i16, i16)
FILTER(filter_f32, f32)
