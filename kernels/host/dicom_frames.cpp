// Finds the encapsulated pixel data of a file in memory. gpuprep/codecs/encapsulated.py is the only caller.
#include <cstdint>
#include <new>

#include "dicom_file.hpp"
#include "export.hpp"

namespace {

using namespace gpuprep::dicom;

constexpr std::uint32_t kExtendedOffsets = 0x7FE00001, kExtendedLengths = 0x7FE00002;

struct Extent {
    std::int64_t offset = -1, length = 0;  // of a value; -1 when there is none
};

struct Places {
    Extent pixel_data, offsets, lengths;
};

struct PixelDataFinder {
    Places& places;

    void item(std::uint32_t, int) {}

    Step element(const Element& element, std::uint32_t, int) {
        const auto length = static_cast<std::int64_t>(element.length);
        const Extent extent{static_cast<std::int64_t>(element.value), length};
        if (element.tag == kExtendedOffsets) places.offsets = extent;
        if (element.tag == kExtendedLengths) places.lengths = extent;
        if (element.tag < kPixelData) return Step::kSkip;
        if (element.tag == kPixelData && element.length == kUndefinedLength) places.pixel_data = extent;
        return Step::kStop;
    }
};

}  // namespace

// Fills `places`; 0 when all is well, 1 when the file needs another reader. An extent may lead beyond the file.
GPUPREP_EXPORT int gp_find_encapsulated(const std::uint8_t* file, std::int64_t size, Places* places) try {
    *places = {};
    Bytes bytes(file, static_cast<std::uint64_t>(size));
    DataSet data_set;
    if (open_data_set(bytes, data_set) != nullptr || data_set.implicit) return 1;
    PixelDataFinder finder{*places};
    return Walker<PixelDataFinder>(bytes, finder).walk(data_set.position, false) == nullptr ? 0 : 1;
} catch (const std::bad_alloc&) {
    return 1;
}
