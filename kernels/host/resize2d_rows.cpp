// Row form of ../resize2d.cu: the source rows of an output row are blended over the whole width, then filtered along x
// with a vector of chains. Every sum is the one that the kernel computes.
#include <algorithm>
#include <cstring>
#include <vector>

#include "cuda_host.hpp"

namespace cuda_host {
namespace {

struct Kernels : Thread {
#include "resize2d.cu"
};

constexpr int kChains = Kernels::kChains;
constexpr int kBlendTaps = 8;         // source rows blended at once: they and the sums stay in registers
constexpr i32 kOutputs = 16;
constexpr std::size_t kStrip = 2048;  // columns blended at once: the sums stay in the level 1 cache

template <int Taps, bool Fresh, class T>
void blend(const T* __restrict__ src, i64 row, const f32* weight, f32* __restrict__ out, std::size_t n) {
    GPUPREP_INDEPENDENT
    for (std::size_t i = 0; i < n; ++i) {
        f32 sum = Fresh ? 0.f : out[i];
        for (int t = 0; t < Taps; ++t) sum = fmaf(weight[t], static_cast<f32>(src[t * row + i]), sum);
        out[i] = sum;
    }
}

template <int Taps, class T>
void blend_from(bool fresh, const T* src, i64 row, const f32* weight, f32* out, std::size_t n) {
    return fresh ? blend<Taps, true>(src, row, weight, out, n) : blend<Taps, false>(src, row, weight, out, n);
}

// out = sum over taps of weight[t] * row t.
template <class T>
void blend_rows(const T* src, i64 row, const f32* weight, i32 taps, f32* out, std::size_t n) {
    for (std::size_t begin = 0; begin < n; begin += kStrip) {
        const std::size_t width = std::min(kStrip, n - begin);
        i32 t = 0;
        const auto add = [&](auto count) {
            blend_from<count.value>(t == 0, src + t * row + begin, row, weight + t, out + begin, width);
            t += count.value;
        };
        while (taps - t >= kBlendTaps) add(std::integral_constant<int, kBlendTaps>());
        if (taps - t >= 4) add(std::integral_constant<int, 4>());
        if (taps - t >= 2) add(std::integral_constant<int, 2>());
        if (taps - t >= 1) add(std::integral_constant<int, 1>());
    }
}

// Outputs are finished kOutputs at a time, as the sums of their chains are added up by vectors too.
template <class T>
void filter_columns(const f32* row, const i32* first, const f32* weight, i32 taps, T* out, i32 n) {
    for (i32 begin = 0; begin < n; begin += kOutputs) {
        const i32 count = std::min(kOutputs, n - begin);
        f32 sums[kOutputs][kChains] = {};
        for (i32 x = 0; x < count; ++x, weight += taps) {
            const f32* at = row + first[begin + x];
            f32 own[kChains] = {};
            for (i32 t = 0; t < taps; t += kChains)
                for (int k = 0; k < kChains; ++k) own[k] = fmaf(weight[t + k], at[t + k], own[k]);
            for (int k = 0; k < kChains; ++k) sums[x][k] = own[k];
        }
        T results[kOutputs];
        GPUPREP_INDEPENDENT
        for (i32 x = 0; x < kOutputs; ++x) Kernels::put(results[x], Kernels::sum_chains(sums[x]));
        std::copy_n(results, count, out + begin);
    }
}

template <class T>
void resize_rows(dim3, dim3, unsigned workers, const T* src, T* dst, const i32* y_first, const f32* y_weight,
                 i32 y_taps, const i32* x_first, const f32* x_weight, i32 x_taps, i32 nz, i32 ny, i32 nx, i32 src_ny,
                 i32 src_nx, i64 src_row, i64 src_page) {
    gpuprep::parallel_for(static_cast<std::size_t>(nz) * ny, 8, workers, [&](std::size_t i, std::size_t end) {
        std::vector<f32> row(static_cast<std::size_t>(src_nx) + x_taps);  // columns from src_nx on stay zero
        for (; i < end; ++i) {
            const i64 z = static_cast<i64>(i) / ny, y = static_cast<i64>(i) % ny;
            blend_rows(src + z * src_page + y_first[y] * src_row, src_row, y_weight + y * y_taps,
                       std::min(y_taps, src_ny - y_first[y]), row.data(), src_nx);
            filter_columns(row.data(), x_first, x_weight, x_taps, dst + static_cast<i64>(i) * nx, nx);
        }
    });
}

ROW_FORM(resize_u8, resize_rows<u8>);
ROW_FORM(resize_u16, resize_rows<u16>);
ROW_FORM(resize_i16, resize_rows<i16>);
ROW_FORM(resize_f32, resize_rows<f32>);

}  // namespace
}  // namespace cuda_host
