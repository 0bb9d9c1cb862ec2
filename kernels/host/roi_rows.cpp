// Row forms of ../roi.cu: a thread takes whole contours; of toggles all of a slice when they come slice by slice, so that
// they need not be atomic. A page is scanned row by row, as it lies in memory.
#include "cuda_host.hpp"

namespace cuda_host {
namespace {

struct Kernels : Thread {
#include "roi.cu"
};

struct Contour {
    i32 first, end, slice, layer;
};

void vertices_rows(dim3 grid, dim3, unsigned workers, const f64* points, const f64* transform, const i32* records,
                   const f64* shifts, i32* vertices) {
    const Contour* const contours = reinterpret_cast<const Contour*>(records);
    gpuprep::parallel_for(grid.x, 1, workers, [=](std::size_t i, std::size_t end) {
        for (; i < end; ++i) {
            const f64 row = shifts[2 * i], column = shifts[2 * i + 1];
            GPUPREP_INDEPENDENT
            for (i32 p = contours[i].first; p < contours[i].end; ++p) {
                const f64* const point = points + i64(3) * p;
                vertices[i64(2) * p] = Kernels::to_q16(Kernels::project(point, transform, 2) + column);
                vertices[i64(2) * p + 1] = Kernels::to_q16(Kernels::project(point, transform, 1) + row);
            }
        }
    });
}

template <bool IsAlone>
void toggle(u32* word, u32 bit) {
    if (IsAlone)
        *word ^= bit;
    else
        atomicXor(word, bit);
}

template <bool IsAlone>
void toggle_contour(const i32* vertices, const Contour& contour, u32* planes, i32 depth, i32 rows, i32 columns, i32 y0,
                    i32 x0) {
    u32* const page = planes + (i64(contour.layer / 32) * depth + contour.slice) * rows * columns;
    const u32 bit = u32(1) << (contour.layer % 32);
    const i32* from = vertices + i64(2) * (contour.end - 1);
    for (i32 e = contour.first; e < contour.end; ++e) {
        const i32* const to = vertices + i64(2) * e;
        const bool is_rightward = from[0] <= to[0];
        const i32 ax = is_rightward ? from[0] : to[0], bx = is_rightward ? to[0] : from[0];
        const i32 ay = is_rightward ? from[1] : to[1], by = is_rightward ? to[1] : from[1];
        from = to;
        const i64 dx = i64(bx) - ax, dy = i64(by) - ay;
        const i32 stop = min(Kernels::ceil_q16(bx), x0 + columns);
        for (i32 x = max(Kernels::ceil_q16(ax), x0); x < stop; ++x) {
            const i64 row = Kernels::ceil_div(((i64(x) << 16) - ax) * dy + ay * dx, dx << 16) - y0;
            if (row < rows) toggle<IsAlone>(page + max(row, i64(0)) * columns + (x - x0), bit);
        }
    }
}

void toggle_rows(dim3 grid, dim3, unsigned workers, const i32* vertices, const i32* records, u32* planes, i32 depth,
                 i32 rows, i32 columns, i32 y0, i32 x0) {
    const Contour* const contours = reinterpret_cast<const Contour*>(records);
    const std::size_t n = grid.x;
    bool are_sorted = true;
    for (std::size_t i = 1; i < n; ++i) are_sorted &= contours[i - 1].slice <= contours[i].slice;
    const auto splits_slice = [=](std::size_t i) { return 0 < i && i < n && contours[i].slice == contours[i - 1].slice; };
    gpuprep::parallel_for(n, 1, workers, [=](std::size_t i, std::size_t end) {
        if (!are_sorted) {
            for (; i < end; ++i) toggle_contour<false>(vertices, contours[i], planes, depth, rows, columns, y0, x0);
            return;
        }
        while (i < end && splits_slice(i)) ++i;  // belongs to the range before
        if (i == end) return;
        while (splits_slice(end)) ++end;
        for (; i < end; ++i) toggle_contour<true>(vertices, contours[i], planes, depth, rows, columns, y0, x0);
    });
}

void toggle_row(const u32* __restrict__ above, u32* __restrict__ row, i32 columns) {
    for (i32 x = 0; x < columns; ++x) row[x] ^= above[x];
}

void scan_rows(dim3 grid, dim3, unsigned workers, u32* pages, i32 rows, i32 columns) {
    gpuprep::parallel_for(grid.y, 1, workers, [=](std::size_t i, std::size_t end) {
        for (; i < end; ++i) {
            u32* const page = pages + i64(i) * rows * columns;
            for (i64 y = 1; y < rows; ++y) toggle_row(page + (y - 1) * columns, page + y * columns, columns);
        }
    });
}

ROW_FORM(roi_vertices, vertices_rows);
ROW_FORM(roi_toggle, toggle_rows);
ROW_FORM(roi_scan, scan_rows);

}  // namespace
}  // namespace cuda_host
