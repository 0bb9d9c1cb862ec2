// DICOM RLE (PS3.5 annex G): byte planes, most significant first, each packed by PackBits. gpuprep/codecs/cpu.py calls it.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

#include "export.hpp"

namespace {

constexpr std::int64_t kHeaderSize = 64;  // segment count and 15 offsets, 32 bit each
constexpr std::int64_t kMostSegments = 15;

enum Status { kDone = 0, kBadHeader = 1, kSegmentEnds = 2, kNoMemory = 3 };

std::uint32_t load_u32(const std::uint8_t* p) {
    return p[0] | std::uint32_t{p[1]} << 8 | std::uint32_t{p[2]} << 16 | std::uint32_t{p[3]} << 24;
}

// Unpacks exactly `size` bytes; what the segment holds beyond them is padding.
bool unpack_bits(const std::uint8_t* from, const std::uint8_t* from_end, std::uint8_t* to, std::int64_t size) {
    std::uint8_t* const to_end = to + size;
    while (to < to_end) {
        if (from >= from_end) return false;
        const unsigned control = *from++;
        if (control < 128) {
            const std::int64_t run = std::min<std::int64_t>(control + 1, to_end - to);
            if (run > from_end - from) return false;
            std::memcpy(to, from, static_cast<std::size_t>(run));
            from += run, to += run;
        } else if (control > 128) {
            if (from >= from_end) return false;
            const std::int64_t run = std::min<std::int64_t>(257 - control, to_end - to);
            std::memset(to, *from++, static_cast<std::size_t>(run));
            to += run;
        }
    }
    return true;
}

}  // namespace

// Decodes `data` into `out`: `pixels` × `samples` little-endian words of `width` bytes, samples of a pixel together.
GPUPREP_EXPORT int gp_decode_rle(const std::uint8_t* data, std::int64_t size, std::int64_t pixels, int samples, int width,
                                 std::uint8_t* out) try {
    const std::int64_t segments = std::int64_t{samples} * width;
    if (size < kHeaderSize || segments < 1 || segments > kMostSegments || load_u32(data) != segments) return kBadHeader;
    thread_local std::vector<std::uint8_t> planes;  // kept: touching fresh pages would cost more than decoding
    if (segments > 1 && planes.size() < static_cast<std::size_t>(pixels * segments))
        planes.resize(static_cast<std::size_t>(pixels * segments));
    std::uint8_t* const unpacked = segments > 1 ? planes.data() : out;
    for (std::int64_t s = 0; s < segments; ++s) {
        const std::int64_t begin = load_u32(data + 4 * (s + 1));
        const std::int64_t end = s + 1 < segments ? std::int64_t{load_u32(data + 4 * (s + 2))} : size;
        if (begin < kHeaderSize || end < begin || end > size) return kBadHeader;
        if (!unpack_bits(data + begin, data + end, unpacked + s * pixels, pixels)) return kSegmentEnds;
    }
    if (segments == 2 && samples == 1) {  // the common case, as a loop that vectorises
        const std::uint8_t *high = unpacked, *low = unpacked + pixels;
        for (std::int64_t i = 0; i < pixels; ++i) {
            const std::uint16_t word = static_cast<std::uint16_t>(high[i] << 8 | low[i]);
            std::memcpy(out + 2 * i, &word, 2);
        }
    } else if (segments > 1) {
        for (std::int64_t s = 0; s < segments; ++s) {
            const std::uint8_t* const plane = unpacked + s * pixels;
            std::uint8_t* const to = out + s / width * width + (width - 1 - s % width);
            for (std::int64_t i = 0; i < pixels; ++i) to[i * segments] = plane[i];
        }
    }
    return kDone;
} catch (const std::bad_alloc&) {
    return kNoMemory;
}
