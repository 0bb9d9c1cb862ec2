// Reads frames from many files into one buffer, and cleans their words. gpuprep/codecs/native.py is the only caller.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <limits>
#include <new>
#include <type_traits>

#include "export.hpp"
#include "pool.hpp"

namespace {

struct Request {
    std::int64_t path;         // where its NUL-terminated path begins in `paths`
    std::int64_t offset;       // in the file
    std::int64_t length;       // bytes
    std::int64_t destination;  // offset in the destination buffer
};

constexpr std::int32_t kShortRead = -1;
constexpr std::int32_t kOutOfBuffer = -2;
constexpr std::int64_t kCleanedBytes = 1 << 18;
constexpr std::int64_t kMostAtOnce = 1 << 30;  // macOS refuses to read 2 GiB and more
constexpr std::size_t kRangesPerWorker = 8;  // so that a slow file does not hold up the others

// The file that a range of requests reads from; consecutive requests often share it.
class OpenFile {
public:
    OpenFile() = default;
    OpenFile(const OpenFile&) = delete;
    OpenFile& operator=(const OpenFile&) = delete;
    ~OpenFile() { close_file(); }

    // Returns the descriptor, or -1 with errno set.
    int get(const char* path) {
        if (path == path_) return descriptor_;
        close_file();
        descriptor_ = open(path, O_RDONLY | O_CLOEXEC);
        path_ = descriptor_ < 0 ? nullptr : path;
        return descriptor_;
    }

private:
    void close_file() {
        if (descriptor_ >= 0) close(descriptor_);
    }

    const char* path_ = nullptr;
    int descriptor_ = -1;
};

std::int32_t read_fully(int file, std::uint8_t* to, std::int64_t length, std::int64_t offset) {
    while (length > 0) {
        const ssize_t n = pread(file, to, static_cast<std::size_t>(std::min(length, kMostAtOnce)), static_cast<off_t>(offset));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return errno;
        if (n == 0) return kShortRead;
        to += n, offset += n, length -= n;
    }
    return 0;
}

// What lies in a buffer, and what clears, or fills with the sign, the bits above the stored ones: a shift to the left,
// then to the right.
struct Words {
    std::int32_t size;  // bytes a word, negative for signed ones; 0: they are taken as they are
    std::int32_t left;
    std::int32_t right;
};

template <class T>
struct Ends {
    T least = std::numeric_limits<T>::max();
    T greatest = std::numeric_limits<T>::min();

    template <class Other>
    void widen(const Other& other) {
        least = std::min(least, static_cast<T>(other.least));
        greatest = std::max(greatest, static_cast<T>(other.greatest));
    }
};
using WordEnds = Ends<std::int64_t>;

template <class T>
Ends<T> find_ends(const T* words, std::int64_t n) {
    Ends<T> ends;
    for (std::int64_t i = 0; i < n; ++i) {
        ends.least = std::min(ends.least, words[i]);
        ends.greatest = std::max(ends.greatest, words[i]);
    }
    return ends;
}

// Without shifts, as there are no vectors of them for words of 8 bits, and slow ones for 16.
template <class T>
void shift(T* signed_words, std::int64_t n, const Words& layout) {
    using Bits = std::make_unsigned_t<T>;
    Bits* words = reinterpret_cast<Bits*>(signed_words);
    const Bits mask = static_cast<Bits>(static_cast<Bits>(~Bits{0}) >> layout.right);
    const Bits sign = std::is_signed_v<T> ? static_cast<Bits>(mask ^ mask >> 1) : Bits{0};
    const std::int32_t down = layout.right - layout.left;
    if (down != 0)
        for (std::int64_t i = 0; i < n; ++i) words[i] = static_cast<Bits>(words[i] >> down);
    for (std::int64_t i = 0; i < n; ++i)
        words[i] = static_cast<Bits>((static_cast<Bits>(words[i] & mask) ^ sign) - sign);
}

// Writes only where there is something to clean, which the ends tell when the stored bits begin at bit 0.
template <class T>
void clean(std::uint8_t* bytes, std::int64_t length, const Words& layout, WordEnds& ends) {
    T* words = reinterpret_cast<T*>(bytes);
    const std::int64_t n = length / static_cast<std::int64_t>(sizeof(T));
    const T least = static_cast<T>(std::numeric_limits<T>::min() >> layout.right);
    const T greatest = static_cast<T>(std::numeric_limits<T>::max() >> layout.right);
    Ends<T> found = find_ends(words, n);
    if (layout.left != layout.right || found.least < least || found.greatest > greatest) {
        shift(words, n, layout);
        found = find_ends(words, n);
    }
    ends.widen(found);
}

void clean_words(std::uint8_t* bytes, std::int64_t length, const Words& layout, WordEnds& ends) {
    switch (layout.size) {
        case 1: return clean<std::uint8_t>(bytes, length, layout, ends);
        case 2: return clean<std::uint16_t>(bytes, length, layout, ends);
        case 4: return clean<std::uint32_t>(bytes, length, layout, ends);
        case 8: return clean<std::uint64_t>(bytes, length, layout, ends);
        case -1: return clean<std::int8_t>(bytes, length, layout, ends);
        case -2: return clean<std::int16_t>(bytes, length, layout, ends);
        case -4: return clean<std::int32_t>(bytes, length, layout, ends);
        case -8: return clean<std::int64_t>(bytes, length, layout, ends);
        default: return;
    }
}

// Cleans words while they are in the level 2 cache.
std::int32_t read_words(int file, std::uint8_t* to, std::int64_t length, std::int64_t offset, const Words& layout,
                        WordEnds& ends) {
    const std::int64_t step = layout.size == 0 ? length : kCleanedBytes;
    for (std::int64_t done = 0; done < length; done += step) {
        const std::int64_t part = std::min(step, length - done);
        const std::int32_t status = read_fully(file, to + done, part, offset + done);
        if (status != 0) return status;
        clean_words(to + done, part, layout, ends);
    }
    return 0;
}

}  // namespace

// Status of each request: 0, an errno, -1 when the file ends before, -2 when it does not fit into the buffer. ends: its
// least and greatest word, cleaned, of up to 32 bits. Requests are of whole words and aligned to them, unless `size`,
// that of a word, is 0. Returns 0, or -1 without memory.
GPUPREP_EXPORT int gp_read_frames(const char* paths, const Request* requests, std::int64_t count, std::uint8_t* buffer,
                                  std::int64_t buffer_size, std::int32_t size, std::int32_t left, std::int32_t right,
                                  unsigned workers, std::int32_t* status, WordEnds* ends) try {
    const Words layout{size, left, right};
    const std::size_t ranges = std::max(1u, workers) * kRangesPerWorker;
    const std::size_t grain = (static_cast<std::size_t>(count) + ranges - 1) / ranges;
    gpuprep::parallel_for(static_cast<std::size_t>(count), std::max<std::size_t>(1, grain), workers,
                          [=](std::size_t begin, std::size_t end) {
        OpenFile file;
        for (std::size_t i = begin; i < end; ++i) {
            const Request& r = requests[i];
            if (r.length < 0 || r.destination < 0 || r.length > buffer_size ||
                r.destination > buffer_size - r.length) {
                status[i] = kOutOfBuffer;
                continue;
            }
            const int descriptor = file.get(paths + r.path);
            WordEnds own;
            status[i] = descriptor < 0 ? errno
                                       : read_words(descriptor, buffer + r.destination, r.length, r.offset, layout, own);
            ends[i] = own;
        }
    });
    return 0;
} catch (const std::bad_alloc&) {
    return -1;
}
