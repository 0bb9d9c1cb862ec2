// Volumes of palette codes: counted, and looked up in tables. gpuprep/codes.py is the only caller.
//
// Codes come in long runs, so packs of them are handled at once where they are equal.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "export.hpp"

namespace {

constexpr std::ptrdiff_t kPack = 64;

template <class Code>
bool is_uniform(const Code* codes) {
    Code varies = 0;
    for (std::ptrdiff_t l = 0; l < kPack; ++l) varies |= codes[l] ^ codes[0];
    return varies == 0;
}

template <class Code>
bool count(const Code* codes, std::int64_t n, std::int64_t* counts, std::int64_t size) {
    for (std::int64_t i = 0; i < n;) {
        if (i + kPack <= n && is_uniform(codes + i)) {
            if (codes[i] >= size) return false;
            counts[codes[i]] += kPack;
            i += kPack;
        } else
            for (const std::int64_t end = std::min<std::int64_t>(n, i + kPack); i < end; ++i) {
                if (codes[i] >= size) return false;
                ++counts[codes[i]];
            }
    }
    return true;
}

template <class Code, class Value>
bool look_up(const Code* codes, std::int64_t n, const Value* table, std::int64_t size, Value* out) {
    for (std::int64_t i = 0; i < n;) {
        if (i + kPack <= n && is_uniform(codes + i)) {
            if (codes[i] >= size) return false;
            std::fill(out + i, out + i + kPack, table[codes[i]]);
            i += kPack;
        } else
            for (const std::int64_t end = std::min<std::int64_t>(n, i + kPack); i < end; ++i) {
                if (codes[i] >= size) return false;
                out[i] = table[codes[i]];
            }
    }
    return true;
}

template <class Code>
bool look_up(const Code* codes, std::int64_t n, const void* table, int value_bytes, std::int64_t size, void* out) {
    switch (value_bytes) {
        case 1: return look_up(codes, n, static_cast<const std::uint8_t*>(table), size, static_cast<std::uint8_t*>(out));
        case 2: return look_up(codes, n, static_cast<const std::uint16_t*>(table), size, static_cast<std::uint16_t*>(out));
        case 4: return look_up(codes, n, static_cast<const std::uint32_t*>(table), size, static_cast<std::uint32_t*>(out));
        default: return false;
    }
}

// `count` copies of a row one after another: the first, then as many as there are at once.
void repeat(const std::uint8_t* row, std::int64_t width, std::int64_t count, std::uint8_t* out) {
    std::memcpy(out, row, width);
    for (std::int64_t done = 1; done < count; done *= 2)
        std::memcpy(out + done * width, out, std::min(done, count - done) * width);
}

template <class Code>
bool spread(const Code* codes, std::int64_t n, const std::uint8_t* rows, std::int64_t width, std::int64_t size,
            std::uint8_t* out) {
    for (std::int64_t i = 0; i < n;) {
        if (i + kPack <= n && is_uniform(codes + i)) {
            if (codes[i] >= size) return false;
            std::int64_t end = i + kPack;
            while (end + kPack <= n && codes[end] == codes[i] && is_uniform(codes + end)) end += kPack;
            repeat(rows + codes[i] * width, width, end - i, out + i * width);
            i = end;
        } else
            for (const std::int64_t end = std::min<std::int64_t>(n, i + kPack); i < end; ++i) {
                if (codes[i] >= size) return false;
                std::memcpy(out + i * width, rows + codes[i] * width, width);
            }
    }
    return true;
}

}  // namespace

// Adds to counts[c] the number of codes c; 0 when a code is not below size.
GPUPREP_EXPORT int gp_count_codes(const void* codes, int code_bytes, std::int64_t n, std::int64_t* counts,
                                  std::int64_t size) {
    switch (code_bytes) {
        case 1: return count(static_cast<const std::uint8_t*>(codes), n, counts, size);
        case 2: return count(static_cast<const std::uint16_t*>(codes), n, counts, size);
        case 4: return count(static_cast<const std::uint32_t*>(codes), n, counts, size);
        default: return 0;
    }
}

// out[i] = table[codes[i]]; 0 when a code is not below size. Codes and values take 1, 2 or 4 bytes.
GPUPREP_EXPORT int gp_look_up_codes(const void* codes, int code_bytes, std::int64_t n, const void* table,
                                    int value_bytes, std::int64_t size, void* out) {
    switch (code_bytes) {
        case 1: return look_up(static_cast<const std::uint8_t*>(codes), n, table, value_bytes, size, out);
        case 2: return look_up(static_cast<const std::uint16_t*>(codes), n, table, value_bytes, size, out);
        case 4: return look_up(static_cast<const std::uint32_t*>(codes), n, table, value_bytes, size, out);
        default: return 0;
    }
}

// out[i * width + b] = rows[codes[i] * width + b] for all b below width, bytes; 0 when a code is not below size.
GPUPREP_EXPORT int gp_spread_codes(const void* codes, int code_bytes, std::int64_t n, const std::uint8_t* rows,
                                   std::int64_t width, std::int64_t size, std::uint8_t* out) {
    switch (code_bytes) {
        case 1: return spread(static_cast<const std::uint8_t*>(codes), n, rows, width, size, out);
        case 2: return spread(static_cast<const std::uint16_t*>(codes), n, rows, width, size, out);
        case 4: return spread(static_cast<const std::uint32_t*>(codes), n, rows, width, size, out);
        default: return 0;
    }
}
