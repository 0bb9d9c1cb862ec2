// Row forms of ../resample.cu. The separable kernel works source slice by source slice: rows are blended along y, gathered
// along x into a ring of filtered slices, and blended along z as they are stored, so that each filtered row is made once
// and nothing is held but a few rows of a few slices. Every sum is the chain of fmaf that the kernel computes.
#include <algorithm>
#include <cstring>
#include <type_traits>
#include <vector>

#include "cuda_host.hpp"

namespace cuda_host {
namespace {

struct Kernels : Thread {
#include "resample.cu"
};

// A vector register of floats where two of them can be indexed as one table; a single float elsewhere.
#if defined(__GNUC__) && !defined(__clang__) && defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__GNUC__) && !defined(__clang__) && defined(__AVX2__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 1;
#endif

constexpr std::size_t kRingBytes = 512 << 10;  // of the level 2 cache
constexpr int kMaxBlockRows = 64, kMinBlockSlices = 16, kTasksPerWorker = 8;
constexpr int kUnrolledTaps = 4;

// What a voxel becomes in memory: itself, or what a window makes of it.
struct AsItIs {
    template <class T>
    void operator()(T& d, f32 v) const {
        Kernels::put(d, v);
    }
};
template <class T>
struct Windowed {
    f32 low, scale, bottom, top;
    template <class D>
    void operator()(D& d, f32 v) const {
        T value;
        Kernels::put(value, v);
        Kernels::put(d, fmaf(static_cast<f32>(value) - low, scale, bottom), bottom, top);
    }
};
template <class T>
struct Clamped {
    T low, high;
    void operator()(T& d, f32 v) const {
        T value;
        Kernels::put(value, v);
        d = Kernels::clamped(value, low, high);
    }
};

// out = start + sum of weights[t] * rows[t], t < Taps; start is 0 when Fresh, else out itself as floats.
template <int Taps, bool Fresh, class In, class Out, class Store = AsItIs>
void blend_taps(const In* const* rows, const f32* weights, const f32* start, Out* out, std::size_t n,
                Store store = {}) {
    GPUPREP_INDEPENDENT
    for (std::size_t i = 0; i < n; ++i) {
        f32 sum = Fresh ? 0.f : start[i];
        for (int t = 0; t < Taps; ++t) sum = fmaf(weights[t], static_cast<f32>(rows[t][i]), sum);
        store(out[i], sum);
    }
}

template <bool Fresh, class In, class Out, class Store>
void blend_few(const In* const* rows, const f32* weights, i32 taps, const f32* start, Out* out, std::size_t n,
               Store store) {
    switch (taps) {
        case 1: return blend_taps<1, Fresh>(rows, weights, start, out, n, store);
        case 2: return blend_taps<2, Fresh>(rows, weights, start, out, n, store);
        case 3: return blend_taps<3, Fresh>(rows, weights, start, out, n, store);
        default: return blend_taps<kUnrolledTaps, Fresh>(rows, weights, start, out, n, store);
    }
}

// out = sum of weights[t] * rows[t], stored by `store`; partial holds n floats.
template <class In, class Out, class Store = AsItIs>
void blend(const In* const* rows, const f32* weights, i32 taps, f32* partial, Out* out, std::size_t n,
           Store store = {}) {
    if (taps <= kUnrolledTaps) return blend_few<true>(rows, weights, taps, nullptr, out, n, store);
    blend_taps<kUnrolledTaps, true>(rows, weights, nullptr, partial, n);
    i32 done = kUnrolledTaps;
    for (; taps - done > kUnrolledTaps; done += kUnrolledTaps)
        blend_taps<kUnrolledTaps, false>(rows + done, weights + done, partial, partial, n);
    blend_few<false>(rows + done, weights + done, taps - done, partial, out, n, store);
}

// Picks columns of a row, for each tap one for each output: out[x] = row[index[x, tap]].
class ColumnGather {
   public:
    ColumnGather(const i32* index, i32 taps, i32 n) : padded_((n + kWidth - 1) / kWidth * kWidth) {
        const auto [low, high] = std::minmax_element(index, index + static_cast<i64>(taps) * n);
        first_ = *low;
        span_ = *high - *low + 1;
        index_.resize(static_cast<std::size_t>(taps) * padded_);
        for (i32 t = 0; t < taps; ++t)
            for (i32 x = 0; x < padded_; ++x)
                index_[at(t, x)] = index[static_cast<i64>(std::min(x, n - 1)) * taps + t] - first_;
        windowed_.assign(taps, kWidth > 1);
        if constexpr (kWidth > 1) make_windows();
    }

    i32 first() const { return first_; }  // first source column that is used
    i32 span() const { return span_; }    // number of columns from there to the last one
    // Elements of a row to pick from (more than are used: registers are loaded whole), and of the result of all taps.
    std::size_t row_size() const { return static_cast<std::size_t>(span_) + 2 * kWidth; }
    std::size_t picked_size() const { return index_.size(); }
    std::size_t at(i32 tap, i32 x) const { return static_cast<std::size_t>(tap) * padded_ + x; }
    bool is_windowed(i32 tap) const { return windowed_[tap]; }

    // row starts at column first(); T has 4 bytes.
    template <class T>
    void pick(const T* row, i32 tap, T* out) const {
        const i32* const index = &index_[at(tap, 0)];
        const i32 n = padded_;  // locals: what is stored through out might be this object
        if constexpr (kWidth > 1) {
            if (windowed_[tap]) {
                typedef T Values __attribute__((vector_size(kWidth * sizeof(T))));
                typedef i32 Places __attribute__((vector_size(kWidth * sizeof(i32))));
                const i32* const window = &windows_[at(tap, 0) / kWidth];
                for (i32 x = 0; x < n; x += kWidth) {
                    Values low, high;
                    Places places;
                    std::memcpy(&low, row + window[x / kWidth], sizeof low);
                    std::memcpy(&high, row + window[x / kWidth] + kWidth, sizeof high);
                    std::memcpy(&places, index + x, sizeof places);
                    low = __builtin_shuffle(low, high, places);
                    std::memcpy(out + x, &low, sizeof low);
                }
                return;
            }
        }
        for (i32 x = 0; x < n; ++x) out[x] = row[index[x]];
    }

   private:
    // A tap is windowed when the kWidth columns of every group lie within two registers, loaded from windows_ on.
    void make_windows() {
        windows_.resize(index_.size() / kWidth);
        for (std::size_t g = 0; g < windows_.size(); ++g) {
            const i32* group = &index_[g * kWidth];
            const auto [low, high] = std::minmax_element(group, group + kWidth);
            windows_[g] = *low;
            if (*high - *low >= 2 * kWidth) windowed_[g * kWidth / padded_] = false;
        }
        for (std::size_t i = 0; i < index_.size(); ++i)
            if (windowed_[i / padded_]) index_[i] -= windows_[i / kWidth];
    }

    i32 padded_, first_, span_;
    std::vector<i32> index_;    // (taps, padded): column from the window's, else from first_
    std::vector<i32> windows_;  // (taps, padded / kWidth): column from first_
    std::vector<bool> windowed_;
};

// The filter along x of one row; weights are turned so that outputs are contiguous for each tap.
class ColumnFilter {
   public:
    const ColumnGather gather;

    ColumnFilter(const i32* index, const f32* weight, i32 taps, i32 n) : gather(index, taps, n), taps_(taps), n_(n) {
        weights_.resize(static_cast<std::size_t>(taps) * n);
        for (i32 t = 0; t < taps; ++t)
            for (i32 x = 0; x < n; ++x)
                weights_[static_cast<std::size_t>(t) * n + x] = weight[static_cast<i64>(x) * taps + t];
    }

    // row: gather.row_size() floats; picked: room for gather.picked_size().
    void apply(const f32* row, f32* picked, f32* out) const {
        for (i32 t = 0; t < taps_; ++t) gather.pick(row, t, picked + gather.at(t, 0));
        add<true>(picked, 0, out);
        for (i32 t = 1; t < taps_; ++t) add<false>(picked, t, out);
    }

   private:
    template <bool Fresh>
    void add(const f32* picked, i32 t, f32* out) const {
        const f32* const weights = &weights_[static_cast<std::size_t>(t) * n_];
        const i32 n = n_;
        picked += gather.at(t, 0);
        GPUPREP_INDEPENDENT
        for (i32 x = 0; x < n; ++x) out[x] = fmaf(weights[x], picked[x], Fresh ? 0.f : out[x]);
    }

    i32 taps_, n_;
    std::vector<f32> weights_;  // (taps, n)
};

template <class T, class D, class Store>
void resample_into(Store store, unsigned workers, SEPARABLE(T, D)) {
    const ColumnFilter columns(x_index, x_weight, x_taps, nx);
    i32 ring = 1;  // slices that one output slice may need
    for (i32 z = 0; z < nz; ++z) {
        const i32* taps = z_index + static_cast<i64>(z) * z_taps;
        const auto [low, high] = std::minmax_element(taps, taps + z_taps);
        ring = std::max(ring, *high - *low + 1);
    }
    const std::size_t rows_that_fit = kRingBytes / (sizeof(f32) * ring * nx);
    const i32 block_rows = static_cast<i32>(std::clamp<std::size_t>(rows_that_fit, 1, std::min(kMaxBlockRows, ny)));
    const i32 y_blocks = (ny - 1) / block_rows + 1;
    const i32 z_blocks = std::clamp<i32>(kTasksPerWorker * static_cast<i32>(workers) / y_blocks, 1,
                                         (nz - 1) / kMinBlockSlices + 1);
    const auto task = [&](i32 y0, i32 y1, i32 z0, i32 z1) {
        const std::size_t block = static_cast<std::size_t>(y1 - y0) * nx;
        std::vector<f32> filtered(block * ring), row(columns.gather.row_size()), picked(columns.gather.picked_size());
        std::vector<f32> partial(std::max(block, columns.gather.row_size()));
        std::vector<i32> held(ring, -1);  // which source slice each slot of the ring holds
        std::vector<const T*> source_rows(y_taps);
        std::vector<const f32*> slices(z_taps);
        const auto filter_slice = [&](i32 z, f32* out) {
            for (i32 y = y0; y < y1; ++y, out += nx) {
                for (i32 t = 0; t < y_taps; ++t)
                    source_rows[t] = src + z * src_page + y_index[static_cast<i64>(y) * y_taps + t] * src_row +
                                     columns.gather.first();
                blend(source_rows.data(), y_weight + static_cast<i64>(y) * y_taps, y_taps, partial.data(), row.data(),
                      columns.gather.span());
                columns.apply(row.data(), picked.data(), out);
            }
        };
        for (i32 z = z0; z < z1; ++z) {
            for (i32 t = 0; t < z_taps; ++t) {
                const i32 slice = z_index[static_cast<i64>(z) * z_taps + t], slot = slice % ring;
                f32* const at = filtered.data() + slot * block;
                if (held[slot] != slice) filter_slice(slice, at);
                held[slot] = slice;
                slices[t] = at;
            }
            const std::size_t stretch = dst_row == nx ? block : nx;  // rows that touch are stored as one
            D* out = dst + dst_first + z * dst_page + y0 * dst_row;
            for (std::size_t done = 0; done < block; done += stretch, out += dst_row) {
                blend(slices.data(), z_weight + static_cast<i64>(z) * z_taps, z_taps, partial.data(), out, stretch,
                      store);
                for (const f32*& slice : slices) slice += stretch;
            }
        }
    };
    const std::size_t tasks = static_cast<std::size_t>(y_blocks) * z_blocks;
    // Tasks that run at once lie in other slices: threads that touch a huge page first would clear it twice.
    gpuprep::parallel_for(tasks, 1, workers, [&](std::size_t i, std::size_t end) {
        for (; i < end; ++i) {
            const i32 y = static_cast<i32>(i / z_blocks) * block_rows;
            const i64 z = static_cast<i64>(i % z_blocks);
            task(y, std::min(ny, y + block_rows), static_cast<i32>(z * nz / z_blocks),
                 static_cast<i32>((z + 1) * nz / z_blocks));
        }
    });
}

#define SEPARABLE_ARGUMENTS                                                                                          \
    src, dst, z_index, z_weight, z_taps, y_index, y_weight, y_taps, x_index, x_weight, x_taps, nz, ny, nx, src_row,  \
        src_page, dst_first, dst_row, dst_page
template <class T>
void resample_rows(dim3, dim3, unsigned workers, SEPARABLE(T, T)) {
    resample_into<T, T>(AsItIs{}, workers, SEPARABLE_ARGUMENTS);
}
template <class T, class D>
void window_rows(dim3, dim3, unsigned workers, SEPARABLE(T, D), f32 low, f32 scale, f32 bottom, f32 top) {
    resample_into<T, D>(Windowed<T>{low, scale, bottom, top}, workers, SEPARABLE_ARGUMENTS);
}
template <class T>
void clamp_rows(dim3, dim3, unsigned workers, SEPARABLE(T, T), T low, T high) {
    resample_into<T, T>(Clamped<T>{low, high}, workers, SEPARABLE_ARGUMENTS);
}

template <class In, class Out>
void convert(const In* __restrict__ in, Out* __restrict__ out, i32 n) {
    for (i32 i = 0; i < n; ++i) out[i] = static_cast<Out>(in[i]);
}

// Copies what repeats: whole slices, whole rows; rows whose columns are consecutive are moved at once.
template <class T>
void gather_rows(dim3, dim3, unsigned workers, const T* src, T* dst, const i32* z_index, const i32* y_index,
                 const i32* x_index, i32 nz, i32 ny, i32 nx, i64 src_row, i64 src_page, i64 dst_first, i64 dst_row,
                 i64 dst_page) {
    const ColumnGather columns(x_index, 1, nx);
    bool consecutive = true;
    for (i32 x = 1; x < nx; ++x) consecutive = consecutive && x_index[x] == x_index[0] + x;
    const std::size_t row_bytes = sizeof(T) * nx;
    gpuprep::parallel_for(nz, 1, workers, [&](std::size_t begin, std::size_t end) {
        std::vector<u32> wide(columns.row_size()), picked(columns.picked_size());
        const auto gather_row = [&](const T* row, T* out) {
            if (consecutive) {
                std::memcpy(out, row + x_index[0], row_bytes);
            } else if (columns.is_windowed(0)) {
                convert(row + columns.first(), wide.data(), columns.span());
                columns.pick(wide.data(), 0, picked.data());
                convert(picked.data(), out, nx);
            } else {
                for (i32 x = 0; x < nx; ++x) out[x] = row[x_index[x]];
            }
        };
        for (std::size_t z = begin; z < end; ++z) {
            T* const page = dst + dst_first + static_cast<i64>(z) * dst_page;
            const T* const source = src + z_index[z] * src_page;
            const bool repeats_slice = z > begin && z_index[z] == z_index[z - 1];
            if (repeats_slice && dst_row == nx) {
                std::memcpy(page, page - dst_page, row_bytes * ny);
                continue;
            }
            for (i32 y = 0; y < ny; ++y) {
                T* const out = page + y * dst_row;
                if (repeats_slice)
                    std::memcpy(out, out - dst_page, row_bytes);
                else if (y > 0 && y_index[y] == y_index[y - 1])
                    std::memcpy(out, out - dst_row, row_bytes);
                else
                    gather_row(source + y_index[y] * src_row, out);
            }
        }
    });
}

#define ROW_FORMS(NAME, FORM)        \
    ROW_FORM(resample_##NAME, FORM); \
    ROW_FORM(linear_##NAME, FORM)
ROW_FORMS(u8, resample_rows<u8>);
ROW_FORMS(i16, resample_rows<i16>);
ROW_FORMS(u16, resample_rows<u16>);
ROW_FORMS(i32, resample_rows<i32>);
ROW_FORMS(f32, resample_rows<f32>);
ROW_FORMS(window_i16_u8, (window_rows<i16, u8>));
ROW_FORMS(window_i16_f32, (window_rows<i16, f32>));
ROW_FORMS(window_i32_u8, (window_rows<i32, u8>));
ROW_FORMS(window_i32_f32, (window_rows<i32, f32>));
ROW_FORMS(window_f32_u8, (window_rows<f32, u8>));
ROW_FORMS(window_f32_f32, (window_rows<f32, f32>));
ROW_FORMS(clamp_i16, clamp_rows<i16>);
ROW_FORMS(clamp_i32, clamp_rows<i32>);
ROW_FORMS(clamp_f32, clamp_rows<f32>);
ROW_FORM(gather_u8, gather_rows<u8>);
ROW_FORM(gather_u16, gather_rows<u16>);
ROW_FORM(gather_u32, gather_rows<u32>);

}  // namespace
}  // namespace cuda_host
