// Row form of ../lut.cu: a slice at a time, in a loop of its own, whose few addresses stay in registers.
#include <algorithm>

#include "cuda_host.hpp"

namespace cuda_host {
namespace {

constexpr std::size_t kWordsATask = 1 << 16;

template <class S, class D>
__attribute__((noinline)) void look_up(const S* src, D* dst, i64 n, const D* table) {
    for (i64 i = 0; i < n; ++i) dst[i] = table[src[i]];
}

template <class S, class D>
void look_up_slices(dim3, dim3, unsigned workers, const S* src, D* dst, i64 n, i64 slice_size, const D* tables,
                    i32 entries, const i32* table_of, i32 first) {
    gpuprep::parallel_for(static_cast<std::size_t>(n), kWordsATask, workers, [=](std::size_t from, std::size_t to) {
        i64 begin = static_cast<i64>(from);
        for (const i64 end = static_cast<i64>(to); begin < end;) {
            const i64 z = begin / slice_size, stop = std::min(end, (z + 1) * slice_size);
            look_up(src + begin, dst + begin, stop - begin, tables + static_cast<i64>(table_of[z]) * entries + first);
            begin = stop;
        }
    });
}

#define LUT(S, D) ROW_FORM(lut_##S##_##D, (look_up_slices<S, D>))
#define LUT_FROM(S) LUT(S, u8); LUT(S, i16); LUT(S, f32)
LUT_FROM(u8);
LUT_FROM(i8);
LUT_FROM(u16);
LUT_FROM(i16);
LUT(u8, u16);
LUT(u16, u16);
LUT(i16, u16);

}  // namespace
}  // namespace cuda_host
