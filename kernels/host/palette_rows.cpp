// Row forms of ../palette.cu. Sets and codes come in runs along a row: a row is handled run by run.
#include <algorithm>

#include "cuda_host.hpp"

namespace cuda_host {
namespace {

struct Kernels : Thread {
#include "palette.cu"
};

constexpr i32 kPack = 64;
static_assert(kPack % sizeof(u64) == 0);

// Where elements differ from the one before: for element x, or in a byte each for the pack from x on.
template <class T>
struct CodeChanges {
    const T* codes;

    bool at(i32 x) const { return codes[x] != codes[x - 1]; }
    void pack(i32 x, u8* changes) const {
        for (i32 l = 0; l < kPack; ++l) changes[l] = codes[x + l] != codes[x + l - 1];
    }
};

struct SetChanges {
    const u32* planes;
    i64 pixels;
    i32 words;

    bool at(i32 x) const { return !Kernels::words_equal(planes, pixels, words, x - 1, x); }
    void pack(i32 x, u8* changes) const {
        u32 differences[kPack] = {};
        const u32* word = planes + x;
        for (i32 p = 0; p < words; ++p, word += pixels)
            for (i32 l = 0; l < kPack; ++l) differences[l] |= word[l] ^ word[l - 1];
        for (i32 l = 0; l < kPack; ++l) changes[l] = differences[l] != 0;
    }
};

// Calls on_run(begin, end) for each longest run of equal elements among n, which `where` tells apart. on_run may
// overwrite its elements.
template <class Changes, class OnRun>
void each_run(i32 n, Changes where, OnRun on_run) {
    i32 begin = 0, x = 1;
    const auto pack = [&](i32 at, i32 skipped) {  // elements at + skipped to at + kPack
        u64 changes[kPack / sizeof(u64)];
        u8* const change = reinterpret_cast<u8*>(changes);
        where.pack(at, change);
        for (i32 l = 0; l < skipped; ++l) change[l] = 0;
        u64 any = 0;
        for (const u64 eight : changes) any |= eight;
        if (any == 0) return;
        for (u64 eight : changes) {
            for (; eight != 0; eight &= eight - 1) {
                const i32 end = at + __builtin_ctzll(eight) / 8;
                on_run(begin, end);
                begin = end;
            }
            at += sizeof eight;
        }
    };
    for (; x + kPack <= n; x += kPack) pack(x, 0);
    if (n > kPack)
        pack(n - kPack, x - (n - kPack));
    else
        for (; x < n; ++x)
            if (where.at(x)) {
                on_run(begin, x);
                begin = x;
            }
    on_run(begin, n);
}

template <class T>
void encode_rows(dim3 grid, dim3, unsigned workers, const u32* planes, u32* slots, T* codes, const i32* slice_of,
                 u32 capacity, i32 words, i32 depth, i32 rows, i32 columns, i32 height, i32 width, i32 y0, i32 x0) {
    const i64 pixels = i64(depth) * rows * columns;
    gpuprep::parallel_for(std::size_t(grid.z) * rows, 1, workers, [=](std::size_t row, std::size_t end) {
        for (; row < end && Kernels::has_room(slots); ++row) {
            const i64 first = i64(row) * columns;
            T* const out = codes + (i64(slice_of[row / rows]) * height + y0 + i64(row % rows)) * width + x0;
            const auto on_run = [=](i32 from, i32 to) {
                const T code = T(Kernels::find_slot(planes, pixels, words, first + from, slots, capacity));
                if (code != 0) std::fill(out + from, out + to, code);
            };
            each_run(columns, SetChanges{planes + first, pixels, words}, on_run);
        }
    });
}

template <class T>
void relabel_rows(dim3 grid, dim3, unsigned workers, T* codes, const T* lut, const i32* slice_of, i32 rows, i32 columns,
                  i32 height, i32 width, i32 y0, i32 x0) {
    gpuprep::parallel_for(std::size_t(grid.z) * rows, 1, workers, [=](std::size_t row, std::size_t end) {
        for (; row < end; ++row) {
            T* const p = codes + (i64(slice_of[row / rows]) * height + y0 + i64(row % rows)) * width + x0;
            each_run(columns, CodeChanges<T>{p}, [=](i32 from, i32 to) {
                if (lut[p[from]] != p[from]) std::fill(p + from, p + to, lut[p[from]]);
            });
        }
    });
}

ROW_FORM(palette_encode_u8, encode_rows<u8>);
ROW_FORM(palette_encode_u16, encode_rows<u16>);
ROW_FORM(palette_encode_u32, encode_rows<u32>);
ROW_FORM(palette_relabel_u8, relabel_rows<u8>);
ROW_FORM(palette_relabel_u16, relabel_rows<u16>);
ROW_FORM(palette_relabel_u32, relabel_rows<u32>);

}  // namespace
}  // namespace cuda_host
