// Grey levels by table: stored words to display values, for whatever chain of modality LUT, VOI LUT and inversion the
// table was made of. Words are decoded ones: clean bits, so that word + first lies in the table.
#include "gpuprep.cuh"

// dst = table of its slice [src + first], which may be the memory of src if as wide; table_of[z] tells which of the tables,
// of `entries` each, slice z uses. src and dst are aligned to 16 bytes.
template <class S, class D>
DEVICE void look_up(i64 thread, const S* src, D* dst, i64 n, i64 slice_size, const D* tables, i32 entries,
                    const i32* table_of, i32 first) {
    const i64 begin = thread * LANES, end = begin + LANES < n ? begin + LANES : n;
    const i64 slice = begin / slice_size;
    if (begin + LANES <= n && begin + LANES <= (slice + 1) * slice_size) {
        const D* table = tables + (i64)table_of[slice] * entries + first;
        map_lanes(src + begin, dst + begin, [=](S word) { return table[word]; });
        return;
    }
    for (i64 i = begin; i < end;) {
        const i64 z = i / slice_size, slice_end = (z + 1) * slice_size, stop = slice_end < end ? slice_end : end;
        const D* table = tables + (i64)table_of[z] * entries + first;
        for (; i < stop; ++i) dst[i] = table[src[i]];
    }
}
#define LUT(S, D)                                                                                                    \
    KERNEL lut_##S##_##D(const S* src, D* dst, i64 n, i64 slice_size, const D* __restrict__ tables, i32 entries,     \
                         const i32* __restrict__ table_of, i32 first) {                                              \
        look_up((i64)blockIdx.x * blockDim.x + threadIdx.x, src, dst, n, slice_size, tables, entries, table_of, first); \
    }
#define LUT_FROM(S) LUT(S, u8) LUT(S, i16) LUT(S, f32)
LUT_FROM(u8)
LUT_FROM(i8)
LUT_FROM(u16)
LUT_FROM(i16)
LUT(u8, u16)
LUT(u16, u16)
LUT(i16, u16)

// present[table_of[z] * entries + word + first] = 1 for every word of slice z. Threads store the same value.
template <class S>
DEVICE void mark(i64 thread, const S* src, i64 n, i64 slice_size, i32* present, i32 entries, const i32* table_of,
                 i32 first) {
    const i64 begin = thread * LANES, end = begin + LANES < n ? begin + LANES : n;
    for (i64 i = begin; i < end;) {
        const i64 z = i / slice_size, slice_end = (z + 1) * slice_size, stop = slice_end < end ? slice_end : end;
        i32* flags = present + (i64)table_of[z] * entries + first;
        for (; i < stop; ++i)
            if (*(volatile i32*)(flags + src[i]) == 0) atomicOr(flags + src[i], 1);
    }
}
#define PRESENT(S)                                                                                                   \
    KERNEL present_##S(const S* __restrict__ src, i64 n, i64 slice_size, i32* present, i32 entries,                  \
                       const i32* __restrict__ table_of, i32 first) {                                                \
        mark((i64)blockIdx.x * blockDim.x + threadIdx.x, src, n, slice_size, present, entries, table_of, first);     \
    }
PRESENT(u8)
PRESENT(i8)
PRESENT(u16)
PRESENT(i16)
