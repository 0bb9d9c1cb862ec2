// Bit planes → codes of a palette, and codes → other codes.
//
// A box of planes (words, depth, rows, columns) is written into slices slice_of[z] of a volume of codes (…, height,
// width), at row y0 and column x0. Codes are slots of a hash table: slots[s] is 1 + the index of a pixel whose words are
// the key of code s, so keys are compared whole. Code and slot 0 are the empty set; the volume holds 0 there already.
// slots[0] becomes 1 when the table is full. Which slot a key gets depends on the order of threads: relabel afterwards.
#include "gpuprep.cuh"

DEVICE bool words_equal(const u32* planes, i64 pixels, i32 words, i64 a, i64 b) {
    for (i32 p = 0; p < words; ++p, planes += pixels)
        if (planes[a] != planes[b]) return false;
    return true;
}

// A slot that other threads write to meanwhile.
DEVICE u32 look_at(const u32* slot) { return *static_cast<const volatile u32*>(slot); }

// A full table ends the work: all of it has to be done again with a larger one.
DEVICE bool has_room(const u32* slots) { return look_at(slots) == 0; }

DEVICE u32 find_slot(const u32* planes, i64 pixels, i32 words, i64 i, u32* slots, u32 capacity) {
    u32 hash = 0, any = 0;
    for (i32 p = 0; p < words; ++p) {
        const u32 w = planes[p * pixels + i];
        any |= w;
        hash = (hash ^ w) * 0x9E3779B1u;  // 2^32 / golden ratio
        hash ^= hash >> 15;
    }
    if (any == 0) return 0;
    for (u32 k = 0; k < capacity; ++k) {
        const u32 s = (hash + k) & (capacity - 1);
        if (s == 0) continue;
        u32 owner = look_at(slots + s);
        if (owner == 0) owner = atomicCAS(slots + s, 0u, (u32)(i + 1));
        if (owner == 0 || words_equal(planes, pixels, words, i, owner - 1)) return s;
    }
    atomicOr(slots, 1u);
    return 0;
}

// The code of pixel i; that of pixel `last` (none: -1) is known.
DEVICE u32 code_of(const u32* planes, i64 pixels, i32 words, i64 i, u32* slots, u32 capacity, i64& last, u32& code) {
    if (last < 0 || !words_equal(planes, pixels, words, i, last)) {
        code = find_slot(planes, pixels, words, i, slots, capacity);
        last = i;
    }
    return code;
}

// N elements as a whole where their address allows it, which a GPU then moves by 16 bytes.
template <int N, class T>
static constexpr int kWhole = N * sizeof(T) < 16 ? N * sizeof(T) : 16;
template <int N, class T>
DEVICE void store_all(T* p, T value) {
    if ((u64)p % kWhole<N, T> == 0) {
        p = (T*)__builtin_assume_aligned(p, kWhole<N, T>);
        for (int l = 0; l < N; ++l) p[l] = value;
    } else
        for (int l = 0; l < N; ++l) p[l] = value;
}
template <int N, class T>
DEVICE void scan_all(const T* p, T& any, T& varies) {
    if ((u64)p % kWhole<N, T> == 0) {
        p = (const T*)__builtin_assume_aligned(p, kWhole<N, T>);
        for (int l = 0; l < N; ++l) any |= p[l], varies |= p[l] ^ p[0];
    } else
        for (int l = 0; l < N; ++l) any |= p[l], varies |= p[l] ^ p[0];
}

// Codes of the N pixels from i on: at once where they are equal, else in quarters.
template <int N, class T>
DEVICE void encode(const u32* planes, i64 pixels, i32 words, i64 i, u32* slots, u32 capacity, T* out, i64& last,
                   u32& code) {
    u32 any = 0, varies = 0;
    for (i32 p = 0; p < words; ++p) scan_all<N>(planes + p * pixels + i, any, varies);
    if (any == 0) return;
    if (varies == 0) {
        const T all = (T)code_of(planes, pixels, words, i, slots, capacity, last, code);
        store_all<N>(out, all);
    } else if constexpr (N > 4) {
        for (int l = 0; l < N; l += N / 4)
            encode<N / 4>(planes, pixels, words, i + l, slots, capacity, out + l, last, code);
    } else
        for (int l = 0; l < N; ++l) out[l] = (T)code_of(planes, pixels, words, i + l, slots, capacity, last, code);
}

// Thread (x, y, z): LANES pixels of row y of slice z.
#define PALETTE_ENCODE(NAME, T)                                                                                        \
    KERNEL NAME(const u32* __restrict__ planes, u32* __restrict__ slots, T* __restrict__ codes,                        \
                const i32* __restrict__ slice_of, u32 capacity, i32 words, i32 depth, i32 rows, i32 columns,           \
                i32 height, i32 width, i32 y0, i32 x0) {                                                               \
        const i32 x = (i32)(blockIdx.x * blockDim.x + threadIdx.x) * LANES, y = blockIdx.y * blockDim.y + threadIdx.y; \
        if (x >= columns || y >= rows || !has_room(slots)) return;                                                     \
        const i64 pixels = (i64)depth * rows * columns, i = ((i64)blockIdx.z * rows + y) * columns + x;                \
        T* out = codes + ((i64)slice_of[blockIdx.z] * height + y0 + y) * width + x0 + x;                               \
        i64 last = -1;                                                                                                 \
        u32 code = 0;                                                                                                  \
        if (x + LANES <= columns)                                                                                      \
            encode<LANES>(planes, pixels, words, i, slots, capacity, out, last, code);                                 \
        else                                                                                                           \
            for (i32 l = 0; x + l < columns; ++l)                                                                      \
                encode<1>(planes, pixels, words, i + l, slots, capacity, out + l, last, code);                         \
    }
PALETTE_ENCODE(palette_encode_u8, u8)
PALETTE_ENCODE(palette_encode_u16, u16)
PALETTE_ENCODE(palette_encode_u32, u32)

// p = lut[p] for N codes: at once where they are equal, else in quarters; lut[0] is 0.
template <int N, class T>
DEVICE void relabel(T* p, const T* lut) {
    T any = 0, varies = 0;
    scan_all<N, T>(p, any, varies);
    if (varies == 0) {
        if (any != 0) store_all<N>(p, lut[any]);
    } else if constexpr (N > 4) {
        for (int l = 0; l < N; l += N / 4) relabel<N / 4>(p + l, lut);
    } else
        for (int l = 0; l < N; ++l) p[l] = lut[p[l]];
}

// codes = lut[codes] in a box of the volume.
#define PALETTE_RELABEL(NAME, T)                                                                                       \
    KERNEL NAME(T* __restrict__ codes, const T* __restrict__ lut, const i32* __restrict__ slice_of, i32 rows,          \
                i32 columns, i32 height, i32 width, i32 y0, i32 x0) {                                                  \
        const i32 x = (i32)(blockIdx.x * blockDim.x + threadIdx.x) * LANES, y = blockIdx.y * blockDim.y + threadIdx.y; \
        if (x >= columns || y >= rows) return;                                                                         \
        T* p = codes + ((i64)slice_of[blockIdx.z] * height + y0 + y) * width + x0 + x;                                 \
        if (x + LANES <= columns)                                                                                      \
            relabel<LANES>(p, lut);                                                                                    \
        else                                                                                                           \
            for (i32 l = 0; x + l < columns; ++l) p[l] = lut[p[l]];                                                    \
    }
PALETTE_RELABEL(palette_relabel_u8, u8)
PALETTE_RELABEL(palette_relabel_u16, u16)
PALETTE_RELABEL(palette_relabel_u32, u32)
