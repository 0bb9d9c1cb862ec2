// Walks the data elements of a DICOM file or of bytes in memory, little endian, explicit or implicit VR.
//
// Encoding: PS3.5 section 7.1 (elements), 7.5 (sequences), A.4 (encapsulated fragments). Every access is checked
// against the size of the source, nesting is limited, and recursion ends with it: hostile input makes the walk fail, no
// more. What is legal but rare, or illegal but readable with guesses, is declined as well; another reader takes over.
#pragma once

#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

namespace gpuprep::dicom {

constexpr std::uint32_t kUndefinedLength = 0xFFFFFFFF;
constexpr std::uint32_t kItem = 0xFFFEE000;
constexpr std::uint32_t kItemEnd = 0xFFFEE00D;
constexpr std::uint32_t kSequenceEnd = 0xFFFEE0DD;
constexpr std::uint32_t kFloatPixelData = 0x7FE00008, kPixelData = 0x7FE00010;
constexpr int kDeepest = 32;

constexpr std::uint16_t vr_code(char first, char second) {
    return static_cast<std::uint16_t>(static_cast<unsigned char>(first) | static_cast<unsigned char>(second) << 8);
}

inline std::uint16_t load_u16(const std::uint8_t* p) { return static_cast<std::uint16_t>(p[0] | p[1] << 8); }
inline std::uint32_t load_u32(const std::uint8_t* p) { return load_u16(p) | std::uint32_t{load_u16(p + 2)} << 16; }
inline std::uint32_t load_tag(const std::uint8_t* p) { return std::uint32_t{load_u16(p)} << 16 | load_u16(p + 2); }

inline bool is_upper(std::uint8_t c) { return c >= 'A' && c <= 'Z'; }

// The value representations of PS3.5 table 6.2-1, and which of them have a 32 bit length (table 7.1-1).
inline bool is_known_vr(std::uint16_t vr) {
    static constexpr char kNames[] = "AEASATCSDADSDTFDFLISLOLTOBODOFOLOVOWPNSHSLSQSSSTSVTMUCUIULUNURUSUTUV";
    for (std::size_t i = 0; i + 1 < sizeof kNames; i += 2)
        if (vr == vr_code(kNames[i], kNames[i + 1])) return true;
    return false;
}

inline bool has_long_length(std::uint16_t vr) {
    static constexpr char kNames[] = "OBODOFOLOVOWSQSVUCUNURUTUV";
    for (std::size_t i = 0; i + 1 < sizeof kNames; i += 2)
        if (vr == vr_code(kNames[i], kNames[i + 1])) return true;
    return false;
}

// Bytes of a file, seen through a window that follows the reader, or of a block of memory.
class Bytes {
public:
    Bytes(const std::uint8_t* data, std::uint64_t size) : data_(data), end_(size), size_(size) {}
    Bytes(int file, std::uint64_t size, std::vector<std::uint8_t>& window)
        : size_(size), file_(file), window_(&window) {}

    std::uint64_t size() const { return size_; }

    // `count` bytes from `position`, valid until the next call; null when the source ends before or cannot be read.
    const std::uint8_t* at(std::uint64_t position, std::uint64_t count) {
        if (position > size_ || count > size_ - position) return nullptr;
        if ((position < begin_ || position + count > end_) && !move_window(position, count)) return nullptr;
        return data_ + (position - begin_);
    }

private:
    static constexpr std::uint64_t kFirstRead = 8 << 10;  // holds most headers
    static constexpr std::uint64_t kNextRead = 64 << 10;

    bool move_window(std::uint64_t position, std::uint64_t count) {
        const std::uint64_t wanted =
            std::min(std::max(count, position == 0 ? kFirstRead : kNextRead), size_ - position);
        if (window_->size() < wanted) window_->resize(wanted);
        std::uint64_t got = 0;
        while (got < wanted) {
            const ssize_t n =
                pread(file_, window_->data() + got, wanted - got, static_cast<off_t>(position + got));
            if (n < 0 && errno == EINTR) continue;
            if (n <= 0) break;
            got += static_cast<std::uint64_t>(n);
        }
        data_ = window_->data();
        begin_ = position;
        end_ = position + got;
        return got >= count;
    }

    const std::uint8_t* data_ = nullptr;
    std::uint64_t begin_ = 0, end_ = 0;  // of the window
    std::uint64_t size_ = 0;
    int file_ = -1;
    std::vector<std::uint8_t>* window_ = nullptr;
};

struct Element {
    std::uint32_t tag;
    std::uint16_t vr;  // 0 in implicit VR
    std::uint32_t length;
    std::uint64_t value;  // position of its first byte
};

enum class Step { kSkip, kEnter, kStop };

// Reads the element at `position`; null when all is well, else why it was declined.
inline const char* read_element(Bytes& bytes, std::uint64_t position, bool implicit, Element& element) {
    const std::uint8_t* p = bytes.at(position, 8);
    if (!p) return "truncated";
    element.tag = load_tag(p);
    element.vr = 0;
    element.value = position + 8;
    if (implicit || element.tag >> 16 == kItem >> 16) {
        element.length = load_u32(p + 4);
        return nullptr;
    }
    element.vr = load_u16(p + 4);
    if (!is_known_vr(element.vr)) return "unknown VR";
    if (!has_long_length(element.vr)) {
        element.length = load_u16(p + 6);
        return nullptr;
    }
    p = bytes.at(position + 8, 4);
    if (!p) return "truncated";
    element.length = load_u32(p);
    element.value = position + 12;
    return nullptr;
}

// Walks nested data sets. The visitor has
//   Step element(const Element&, uint32_t sequence, int depth)   sequence: the one that holds it, 0 at top level
//   void item(uint32_t sequence, int depth)                      an item of an entered sequence begins
// and sees only the top level and the items of sequences that it chose to enter. It sees an element before its length
// is checked: the value may end beyond the source.
template <class Visitor>
class Walker {
public:
    Walker(Bytes& bytes, Visitor& visitor) : bytes_(bytes), visitor_(visitor) {}

    // Walks the top level data set from `position` to the end or to kStop; null when all is well.
    const char* walk(std::uint64_t position, bool implicit) {
        stopped_ = false;
        return data_set(position, bytes_.size(), false, implicit, true, 0, 0);
    }

private:
    const char* data_set(std::uint64_t& position, std::uint64_t end, bool has_end_tag, bool implicit, bool is_visited,
                         std::uint32_t sequence, int depth) {
        std::uint32_t previous = 0;
        while (position < end) {
            Element element{};
            if (const char* fault = read_element(bytes_, position, implicit, element)) return fault;
            if (element.value > end) return "element beyond its item";
            if (element.tag == kItemEnd && has_end_tag) {
                position = element.value;
                return nullptr;
            }
            if (element.tag >> 16 == kItem >> 16) return "stray delimiter";
            if (element.tag <= previous) return "elements out of order";
            previous = element.tag;
            const Step step = is_visited ? visitor_.element(element, sequence, depth) : Step::kSkip;
            if (step == Step::kStop) {
                stopped_ = true;
                return nullptr;
            }
            position = element.value;
            if (element.length != kUndefinedLength && element.length > end - position) return "truncated";
            if (step == Step::kEnter || element.length == kUndefinedLength) {
                const bool is_entered = step == Step::kEnter;
                if (const char* fault = items(position, end, element, implicit, is_entered, depth)) return fault;
                if (stopped_) return nullptr;
            } else {
                position += element.length;
            }
        }
        return has_end_tag ? "truncated" : nullptr;
    }

    const char* items(std::uint64_t& position, std::uint64_t limit, const Element& owner, bool implicit,
                      bool is_visited, int depth) {
        if (depth >= kDeepest) return "nested too deep";
        const bool has_end_tag = owner.length == kUndefinedLength;
        const std::uint64_t end = has_end_tag ? limit : position + owner.length;
        const bool is_unknown = owner.vr == vr_code('U', 'N');
        const bool is_fragments = owner.vr == vr_code('O', 'B') || owner.vr == vr_code('O', 'W');
        if (!implicit && !is_unknown && !is_fragments && owner.vr != vr_code('S', 'Q')) return "undefined length";
        if ((implicit && owner.tag == kPixelData) || (is_fragments && is_visited)) return "undefined length";
        while (position < end) {
            const std::uint8_t* p = end - position < 8 ? nullptr : bytes_.at(position, 8);
            if (!p) return "truncated";
            const std::uint32_t tag = load_tag(p), length = load_u32(p + 4);
            position += 8;
            if (tag == kSequenceEnd && has_end_tag) return nullptr;
            if (tag != kItem) return "item expected";
            const bool item_has_end_tag = length == kUndefinedLength;
            if (!item_has_end_tag && length > end - position) return "truncated";
            if (is_visited) visitor_.item(owner.tag, depth);
            if (item_has_end_tag && is_fragments) return "undefined length";
            if (!item_has_end_tag && !is_visited) {
                position += length;
                continue;
            }
            if (is_unknown && !implicit) {  // implicit VR inside (PS3.5 section 6.2.2), unless its writer erred
                const std::uint8_t* first = bytes_.at(position, 6);
                if (first && is_upper(first[4]) && is_upper(first[5])) return "explicit VR in UN";
            }
            const std::uint64_t item_end = item_has_end_tag ? end : position + length;
            if (const char* fault = data_set(position, item_end, item_has_end_tag, implicit || is_unknown, is_visited,
                                             owner.tag, depth + 1))
                return fault;
            if (stopped_) return nullptr;
        }
        return has_end_tag ? "truncated" : nullptr;
    }

    Bytes& bytes_;
    Visitor& visitor_;
    bool stopped_ = false;
};

}  // namespace gpuprep::dicom
