// Contours → bit planes. Bit b of word w of a pixel is set when layer 32 * w + b covers its centre (even-odd).
//
// Vertices are Q16 fixed-point pixel coordinates, at most 16384 pixels from the origin, so that all products fit 64 bits
// and the result is exact: neighbours that share a border have neither gap nor overlap. A pixel whose centre is on an
// edge belongs to the area below that edge (larger y), or to its right when the edge is a column.
#include "gpuprep.cuh"

DEVICE i64 ceil_div(i64 a, i64 b) { return a / b + (a % b > 0); }  // b > 0
DEVICE i32 ceil_q16(i32 v) { return (i32)(((i64)v + 65535) >> 16); }

// Thread e toggles, in each column that edge e crosses, the first pixel at or below the crossing. Edge e runs from vertex
// e to the next one of its contour. contours: (first vertex, end vertex, slice, layer) each; vertices: (x, y) each.
// planes: (words, depth, rows, columns), whose pixel (0, 0) is pixel (y0, x0) of the image.
KERNEL roi_toggle(const i32* __restrict__ vertices, const i32* __restrict__ contour_of_vertex,
                  const i32* __restrict__ contours, u32* __restrict__ planes, i64 first, i64 end, i32 depth, i32 rows,
                  i32 columns, i32 y0, i32 x0) {
    const i64 e = first + (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (e >= end) return;
    const i32* contour = contours + (i64)4 * contour_of_vertex[e];
    const i32 *a = vertices + 2 * e, *b = vertices + 2 * (e + 1 < contour[1] ? e + 1 : (i64)contour[0]);
    if (a[0] > b[0]) {
        const i32* t = a;
        a = b;
        b = t;
    }
    i32 x = ceil_q16(a[0]), stop = ceil_q16(b[0]);  // columns a.x <= x < b.x
    x = x < x0 ? x0 : x;
    stop = stop > x0 + columns ? x0 + columns : stop;
    const i64 dx = (i64)b[0] - a[0], dy = (i64)b[1] - a[1];
    u32* page = planes + ((i64)(contour[3] / 32) * depth + contour[2]) * rows * columns;
    for (; x < stop; ++x) {
        i64 row = ceil_div((((i64)x << 16) - a[0]) * dy + (i64)a[1] * dx, dx << 16) - y0;
        row = row < 0 ? 0 : row;
        if (row < rows) atomicXor(page + row * columns + (x - x0), (u32)1 << (contour[3] % 32));
    }
}

// Toggles → areas: prefix XOR down each column. pages: (words × depth, rows, columns).
KERNEL roi_scan(u32* __restrict__ pages, i32 rows, i32 columns) {
    const int C = LANES / 4;  // columns a thread: 2 on the GPU, 16 on the host
    const i32 x = (i32)(blockIdx.x * blockDim.x + threadIdx.x) * C;
    u32* p = pages + (i64)blockIdx.y * rows * columns + x;
    if (x + C <= columns) {
        u32 inside[C];
        for (int l = 0; l < C; ++l) inside[l] = 0;
        for (i32 y = 0; y < rows; ++y, p += columns)
            for (int l = 0; l < C; ++l) p[l] = inside[l] ^= p[l];
    } else
        for (i32 j = 0; x + j < columns; ++j)
            for (i64 y = 1; y < rows; ++y) p[y * columns + j] ^= p[(y - 1) * columns + j];
}
