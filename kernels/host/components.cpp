// The largest connected component of a small image.
#include <cstdint>
#include <initializer_list>
#include <vector>

#include "export.hpp"

namespace {

std::int32_t root_of(std::vector<std::int32_t>& parent, std::int32_t i) {
    while (parent[i] != i) i = parent[i] = parent[parent[i]];
    return i;
}

}  // namespace

// box: first row, first column, last row, last column of the 4-connected component of non-zero pixels with the most
// pixels; of several, the one that begins last in reading order. Returns its number of pixels (box is left alone when 0),
// or -1 when memory is short.
GPUPREP_EXPORT std::int64_t gp_largest_component(const std::uint8_t* image, std::int32_t height, std::int32_t width,
                                                 std::int32_t* box) try {
    const std::int32_t n = height * width;
    std::vector<std::int32_t> parent(n), count(n, 0);
    for (std::int32_t i = 0; i < n; ++i) {
        parent[i] = i;
        if (image[i] == 0) continue;
        // the smaller index becomes the root, so that a component's root is its first pixel
        for (const std::int32_t before : {i % width != 0 ? i - 1 : -1, i - width}) {
            if (before < 0 || image[before] == 0) continue;
            const std::int32_t a = root_of(parent, before), b = root_of(parent, i);
            parent[a < b ? b : a] = a < b ? a : b;
        }
    }
    std::int32_t best = -1;
    for (std::int32_t i = 0; i < n; ++i)
        if (image[i] != 0) ++count[root_of(parent, i)];
    for (std::int32_t i = 0; i < n; ++i)
        if (count[i] > 0 && (best < 0 || count[i] >= count[best])) best = i;
    if (best < 0) return 0;
    box[0] = height, box[1] = width, box[2] = box[3] = -1;
    for (std::int32_t i = 0; i < n; ++i) {
        if (image[i] == 0 || root_of(parent, i) != best) continue;
        const std::int32_t y = i / width, x = i % width;
        if (y < box[0]) box[0] = y;
        if (x < box[1]) box[1] = x;
        if (y > box[2]) box[2] = y;
        if (x > box[3]) box[3] = x;
    }
    return count[best];
} catch (...) {
    return -1;
}
