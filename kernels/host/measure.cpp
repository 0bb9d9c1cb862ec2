// Least and greatest value, sum and sum of squares of voxels, exactly. gpuprep/writers/study.py is the only caller.
#include <algorithm>
#include <cstdint>

#include "export.hpp"

namespace {

constexpr std::int64_t kBlock = 1 << 14;  // sums of as many 16-bit values fit 32 bits

template <class T>
void measure(const T* values, std::int64_t n, std::int64_t* found) {
    T least = values[0], greatest = values[0];
    std::int64_t total = 0, squares = 0;
    for (std::int64_t i = 0; i < n;) {
        const std::int64_t end = std::min(n, i + kBlock);
        std::int32_t sum = 0;
        for (; i < end; ++i) {
            const std::int32_t v = values[i];
            least = std::min(least, values[i]);
            greatest = std::max(greatest, values[i]);
            sum += v;
            squares += static_cast<std::int64_t>(v) * v;
        }
        total += sum;
    }
    found[0] = least, found[1] = greatest, found[2] = total, found[3] = squares;
}

}  // namespace

// found: least, greatest, sum, sum of squares of n > 0 values; n below 2^31, so that no sum overflows.
GPUPREP_EXPORT void gp_measure_i16(const std::int16_t* values, std::int64_t n, std::int64_t* found) {
    measure(values, n, found);
}
