// Contours → bit planes. Bit b of word w of a pixel is set when layer 32 * w + b covers its centre (even-odd).
//
// Vertices become Q16 fixed-point pixel coordinates, at most 16384 pixels from the origin, so that all products fit 64
// bits and the result is exact: neighbours that share a border have neither gap nor overlap. A pixel whose centre is on an
// edge belongs to the area below that edge (larger y), or to its right when the edge is a column.
#include "gpuprep.cuh"

DEVICE i64 ceil_div(i64 a, i64 b) { return a / b + (a % b > 0); }  // b > 0
DEVICE i32 ceil_q16(i32 v) { return (i32)(((i64)v + 65535) >> 16); }

// Axis k of a point (x, y, z) mm. transform: anchor (3), then one row of three factors an axis: mm along the normal, row,
// column. No fmaf: NumPy has none, and the reference computes the same.
DEVICE f64 project(const f64* point, const f64* transform, i32 k) {
    const f64* m = transform + 3 + 3 * k;
    return (point[0] - transform[0]) * m[0] + (point[1] - transform[1]) * m[1] + (point[2] - transform[2]) * m[2];
}

DEVICE i32 to_q16(f64 pixels) { return (i32)floor(pixels * 65536.0 + 0.5); }

// Thread i measures contour i, points bounds[i] to bounds[i + 1]. extremes: lowest (3), highest (3) along each axis, and 0
// or, when a coordinate is not finite, NaN.
KERNEL roi_measure(const f64* __restrict__ points, const i64* __restrict__ bounds, const f64* __restrict__ transform,
                   f64* __restrict__ extremes, i32 count) {
    const i32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    f64 low[3], high[3], nought = 0;
    for (i32 k = 0; k < 3; ++k) low[k] = high[k] = project(points + 3 * bounds[i], transform, k);
    for (i64 p = bounds[i]; p < bounds[i + 1]; ++p)
        for (i32 k = 0; k < 3; ++k) {
            const f64 v = project(points + 3 * p, transform, k);
            low[k] = v < low[k] ? v : low[k];
            high[k] = v > high[k] ? v : high[k];
            nought += v - v;
        }
    f64* out = extremes + (i64)7 * i;
    for (i32 k = 0; k < 3; ++k) {
        out[k] = low[k];
        out[3 + k] = high[k];
    }
    out[6] = nought;
}

// Block i turns the points of contour i into vertices (x, y). contours: (first point, end point, slice, layer) each;
// shifts: (rows, columns) to add to its points.
KERNEL roi_vertices(const f64* __restrict__ points, const f64* __restrict__ transform, const i32* __restrict__ contours,
                    const f64* __restrict__ shifts, i32* __restrict__ vertices) {
    const i32* contour = contours + (i64)4 * blockIdx.x;
    const f64* shift = shifts + (i64)2 * blockIdx.x;
    for (i32 p = contour[0] + threadIdx.x; p < contour[1]; p += blockDim.x) {
        vertices[(i64)2 * p] = to_q16(project(points + (i64)3 * p, transform, 2) + shift[1]);
        vertices[(i64)2 * p + 1] = to_q16(project(points + (i64)3 * p, transform, 1) + shift[0]);
    }
}

// Block i toggles, in each column that an edge of contour i crosses, the first pixel at or below the crossing.
// planes: (words, depth, rows, columns), whose pixel (0, 0) is pixel (y0, x0) of the image.
KERNEL roi_toggle(const i32* __restrict__ vertices, const i32* __restrict__ contours, u32* __restrict__ planes, i32 depth,
                  i32 rows, i32 columns, i32 y0, i32 x0) {
    const i32* contour = contours + (i64)4 * blockIdx.x;
    u32* page = planes + ((i64)(contour[3] / 32) * depth + contour[2]) * rows * columns;
    const u32 bit = (u32)1 << (contour[3] % 32);
    for (i32 e = contour[0] + threadIdx.x; e < contour[1]; e += blockDim.x) {
        const i32 *a = vertices + (i64)2 * e, *b = vertices + (i64)2 * (e + 1 < contour[1] ? e + 1 : contour[0]);
        if (a[0] > b[0]) {
            const i32* t = a;
            a = b;
            b = t;
        }
        const i64 dx = (i64)b[0] - a[0], dy = (i64)b[1] - a[1];
        i32 x = ceil_q16(a[0]), stop = ceil_q16(b[0]);  // columns a.x <= x < b.x
        x = x < x0 ? x0 : x;
        stop = stop > x0 + columns ? x0 + columns : stop;
        for (; x < stop; ++x) {
            i64 row = ceil_div((((i64)x << 16) - a[0]) * dy + a[1] * dx, dx << 16) - y0;
            row = row < 0 ? 0 : row;
            if (row < rows) atomicXor(page + row * columns + (x - x0), bit);
        }
    }
}

// Toggles → areas: prefix XOR down each column. pages: (words × depth, rows, columns). A thread has a column, and loads
// kAhead rows before it stores the first: the compiler does not know that their addresses differ.
static constexpr i32 kAhead = 12;
KERNEL roi_scan(u32* __restrict__ pages, i32 rows, i32 columns) {
    const i32 x = blockIdx.x * blockDim.x + threadIdx.x;
    if (x >= columns) return;
    u32* p = pages + (i64)blockIdx.y * rows * columns + x;
    u32 inside = 0, ahead[kAhead];
    for (i32 y = 0; y < rows; y += kAhead, p += (i64)kAhead * columns) {
        for (i32 r = 0; r < kAhead; ++r)
            if (y + r < rows) ahead[r] = p[(i64)r * columns];
        for (i32 r = 0; r < kAhead; ++r)
            if (y + r < rows) p[(i64)r * columns] = inside ^= ahead[r];
    }
}
