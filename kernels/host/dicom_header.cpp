// Reads the headers of many DICOM files: the raw texts of the elements asked for, and where the pixel data lies.
//
// Files that are out of the ordinary are declined with a reason, and left to a reader that knows more. gpuprep/dicom/
// header.py says which elements and references are wanted, and interprets the texts.
#include <fcntl.h>
#include <sys/stat.h>

#include <charconv>
#include <cstdlib>
#include <string>

#include "dicom_file.hpp"
#include "export.hpp"
#include "pool.hpp"

using namespace gpuprep::dicom;

namespace {

constexpr std::uint32_t kCharacterSet = 0x00080005, kSopClass = 0x00080016;
constexpr const char* kPresent = "1";  // the text of a wanted sequence, which is not read

struct Wanted {
    std::uint32_t tag;
    std::uint16_t vr;  // in implicit VR; SQ: whether it is there
    int column;
};

// One step into the references of a SOP class: element `tag` of an item of `sequence` (0: top level) fills `column`,
// or is itself a sequence to enter (column -1).
struct Reference {
    std::uint32_t sop_class, sequence, tag;
    std::int32_t column;
};

struct Request {
    std::vector<Wanted> wanted;  // ascending by tag
    std::vector<std::string> sop_classes;
    std::vector<Reference> references;
    int columns;
    std::uint32_t longest;
};

struct Record {
    std::int64_t pixel_offset = -1, pixel_length = -1;
    DataSet data_set;
    std::vector<std::string> texts;

    void clear(std::size_t columns) {
        pixel_offset = pixel_length = -1;
        data_set = {};
        texts.resize(columns);
        for (std::string& text : texts) text.clear();
    }
};

double load_f64(const std::uint8_t* p) {
    const std::uint64_t word = load_u32(p) | std::uint64_t{load_u32(p + 4)} << 32;
    double number;
    std::memcpy(&number, &word, sizeof number);
    return number;
}

template <class Number, class Load>
void append_numbers(std::string& text, const std::uint8_t* p, std::uint32_t length, Load load) {
    for (std::uint32_t i = 0; i + sizeof(Number) <= length; i += sizeof(Number)) {
        char digits[40];  // enough for every number
        const auto end = std::to_chars(digits, digits + sizeof digits, static_cast<Number>(load(p + i))).ptr;
        if (i) text += '\\';
        text.append(digits, end);
    }
}

// Whether a code string is one by its VR and holds no control characters.
bool is_plain_code(const Element& element, const std::string& text) {
    const bool has_control = std::any_of(text.begin(), text.end(), [](unsigned char c) { return c < ' '; });
    return (element.vr == 0 || element.vr == vr_code('C', 'S')) && !has_control;
}

class HeaderVisitor {
public:
    HeaderVisitor(Bytes& bytes, const Request& request, Record& record)
        : bytes_(bytes), request_(request), record_(record) {}

    const char* fault() const { return fault_; }

    Step element(const Element& element, std::uint32_t sequence, int depth) {
        if (depth) return reference(element, sequence);
        if (element.tag >= kFloatPixelData && element.tag <= kPixelData) {
            const bool is_native = record_.data_set.transfer_syntax == kImplicitLittle ||
                                   record_.data_set.transfer_syntax == kExplicitLittle;
            if (element.tag == kPixelData && is_native && element.length != kUndefinedLength) {
                record_.pixel_offset = static_cast<std::int64_t>(element.value);
                record_.pixel_length = element.length;
            }
            return Step::kStop;
        }
        while (next_ < request_.wanted.size() && request_.wanted[next_].tag < element.tag) ++next_;
        if (next_ < request_.wanted.size() && request_.wanted[next_].tag == element.tag) {
            const Wanted& wanted = request_.wanted[next_];
            std::string& text = record_.texts[static_cast<std::size_t>(wanted.column)];
            if (wanted.vr == vr_code('S', 'Q'))
                text = kPresent;
            else
                read_value(element, wanted.vr, text);
            if (element.tag == kCharacterSet && !is_plain_code(element, text)) decline("odd character set");
            if (element.tag == kSopClass) choose_references(text);
        }
        return fault_ ? Step::kStop : reference(element, 0);
    }

    void item(std::uint32_t, int) {}

private:
    void read_value(const Element& element, std::uint16_t implicit_vr, std::string& text) {
        if (element.length == kUndefinedLength) return decline("wanted element has undefined length");
        const bool is_unnamed = element.vr == 0 || element.vr == vr_code('U', 'N');
        const std::uint16_t vr = is_unnamed ? implicit_vr : element.vr;
        if (is_text_vr(vr)) {
            fault_ = read_text(bytes_, element, request_.longest, text);
            return;
        }
        const std::uint32_t length = std::min(element.length, request_.longest);
        const std::uint8_t* p = bytes_.at(element.value, length);
        if (!p) return decline("truncated");
        if (vr == vr_code('U', 'S')) {
            append_numbers<std::uint16_t>(text, p, length, load_u16);
        } else if (vr == vr_code('S', 'S')) {
            append_numbers<std::int16_t>(text, p, length, load_u16);
        } else if (vr == vr_code('U', 'L')) {
            append_numbers<std::uint32_t>(text, p, length, load_u32);
        } else if (vr == vr_code('S', 'L')) {
            append_numbers<std::int32_t>(text, p, length, load_u32);
        } else if (vr == vr_code('F', 'D') && implicit_vr == vr) {
            append_numbers<double>(text, p, length, load_f64);
        } else {
            decline("wanted element has an odd VR");
        }
    }

    void decline(const char* why) { fault_ = why; }

    void choose_references(std::string_view sop_class) {
        for (std::size_t i = 0; i < request_.sop_classes.size(); ++i)
            if (request_.sop_classes[i] == sop_class) sop_class_ = static_cast<std::uint32_t>(i);
    }

    Step reference(const Element& element, std::uint32_t sequence) {
        if (sop_class_ == kNoReferences) return Step::kSkip;
        for (const Reference& reference : request_.references) {
            if (reference.sop_class != sop_class_ || reference.sequence != sequence || reference.tag != element.tag)
                continue;
            if (reference.column < 0) {
                const bool is_sequence = element.vr == 0 || element.vr == vr_code('S', 'Q');
                if (!is_sequence) decline("sequence has an odd VR");
                return is_sequence ? Step::kEnter : Step::kStop;
            }
            value_.clear();
            read_value(element, vr_code('U', 'I'), value_);
            std::string& list = record_.texts[static_cast<std::size_t>(reference.column)];
            if (!list.empty()) list += '\\';
            list += value_;
            return fault_ ? Step::kStop : Step::kSkip;
        }
        return Step::kSkip;
    }

    static constexpr std::uint32_t kNoReferences = 0xFFFFFFFF;

    Bytes& bytes_;
    const Request& request_;
    Record& record_;
    std::size_t next_ = 0;
    std::uint32_t sop_class_ = kNoReferences;
    std::string value_;
    const char* fault_ = nullptr;
};

// Reads one file; null when all is well, "not-dicom", or why it was declined.
const char* read_header(Bytes& bytes, const Request& request, Record& record) {
    if (const char* fault = open_data_set(bytes, record.data_set)) return fault;
    HeaderVisitor visitor(bytes, request, record);
    Walker<HeaderVisitor> walker(bytes, visitor);
    const char* fault = walker.walk(record.data_set.position, record.data_set.implicit);
    return visitor.fault() ? visitor.fault() : fault;
}

struct File {
    explicit File(const char* path) : number(open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {}
    ~File() {
        if (number >= 0) close(number);
    }
    File(const File&) = delete;
    File& operator=(const File&) = delete;
    const int number;
};

std::int64_t mtime_ns(const struct stat& status) {
#ifdef __APPLE__
    const timespec& time = status.st_mtimespec;
#else
    const timespec& time = status.st_mtim;
#endif
    return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

struct Scratch {
    std::vector<std::uint8_t> window;
    Record record;
};

// Appends the record of one file: outcome, detail, size, mtime, pixel offset and length, media class, whether it has a
// preamble, then the columns.
// The outcome is "ok", "declined", "unreadable" (detail: errno), "irregular", "empty-file" or "not-dicom".
void append_record(const char* path, const Request& request, Scratch& scratch, std::string& out) {
    Record& record = scratch.record;
    record.clear(static_cast<std::size_t>(request.columns));
    std::string_view outcome = "ok";
    std::string detail;
    struct stat status {};
    const File file(path);
    if (file.number < 0 || fstat(file.number, &status) != 0) {
        outcome = "unreadable";
        detail = std::to_string(errno);
    } else if (!S_ISREG(status.st_mode)) {
        outcome = "irregular";
    } else if (status.st_size == 0) {
        outcome = "empty-file";
    } else {
        Bytes bytes(file.number, static_cast<std::uint64_t>(status.st_size), scratch.window);
        if (const char* fault = read_header(bytes, request, record)) {
            outcome = std::string_view(fault) == "not-dicom" ? "not-dicom" : "declined";
            detail = fault;
        }
    }
    const auto field = [&out](std::string_view text, char end = kFieldEnd) {
        out += text;
        out += end;
    };
    field(outcome);
    field(detail);
    field(std::to_string(status.st_size));
    field(std::to_string(mtime_ns(status)));
    if (outcome == "ok") {
        field(std::to_string(record.pixel_offset));
        field(std::to_string(record.pixel_length));
        field(record.data_set.media_class);
        field(record.data_set.has_preamble ? "1" : "0");
        for (const Wanted& wanted : request.wanted)
            if (wanted.tag == kTransferSyntax)
                record.texts[static_cast<std::size_t>(wanted.column)] = record.data_set.transfer_syntax;
        for (const std::string& text : record.texts) field(text);
    }
    out.back() = kRecordEnd;
}

std::vector<const char*> split_strings(const char* strings, std::int64_t count) {
    std::vector<const char*> parts;
    for (; count > 0; --count, strings += std::strlen(strings) + 1) parts.push_back(strings);
    return parts;
}

}  // namespace

// Scans `path_count` files whose names, each ended by NUL, follow each other in `paths`. Column i is wanted from
// element `tags[i]` (0: filled by references only), whose VR in implicit VR is `vrs[2 i]`, `vrs[2 i + 1]`; no value
// gives more than `longest` bytes. `references` are rows of four: SOP class (its number in `sop_classes`), sequence,
// tag, column. *out and *out_size receive one record a file, to be released with gp_release. Returns 0, or -1 without
// memory.
GPUPREP_EXPORT int gp_scan_headers(const char* paths, std::int64_t path_count, const std::uint32_t* tags,
                                   const char* vrs, std::int64_t column_count, std::uint32_t longest,
                                   const char* sop_classes, std::int64_t sop_class_count,
                                   const std::int64_t* references, std::int64_t reference_count, unsigned workers,
                                   char** out, std::int64_t* out_size) try {
    Request request;
    request.columns = static_cast<int>(column_count);
    request.longest = longest;
    for (int i = 0; i < request.columns; ++i)
        if (tags[i]) request.wanted.push_back({tags[i], vr_code(vrs[2 * i], vrs[2 * i + 1]), i});
    std::sort(request.wanted.begin(), request.wanted.end(),
              [](const Wanted& a, const Wanted& b) { return a.tag < b.tag; });
    for (const char* uid : split_strings(sop_classes, sop_class_count)) request.sop_classes.emplace_back(uid);
    for (const std::int64_t* row = references; row != references + 4 * reference_count; row += 4)
        request.references.push_back({static_cast<std::uint32_t>(row[0]), static_cast<std::uint32_t>(row[1]),
                                      static_cast<std::uint32_t>(row[2]), static_cast<std::int32_t>(row[3])});

    const std::vector<const char*> names = split_strings(paths, path_count);
    constexpr std::size_t kGrain = 64;  // files; a header takes about as long as waking a thread
    std::vector<std::string> parts((names.size() + kGrain - 1) / kGrain);
    gpuprep::parallel_for(parts.size(), 1, workers, [&](std::size_t begin, std::size_t end) {
        Scratch scratch;
        for (std::size_t part = begin; part < end; ++part)
            for (std::size_t i = part * kGrain; i < std::min(names.size(), (part + 1) * kGrain); ++i)
                append_record(names[i], request, scratch, parts[part]);
    });
    std::size_t total = 0;
    for (const std::string& part : parts) total += part.size();
    *out = static_cast<char*>(std::malloc(total ? total : 1));
    if (!*out) return -1;
    *out_size = static_cast<std::int64_t>(total);
    char* p = *out;
    for (const std::string& part : parts) p = std::copy(part.begin(), part.end(), p);
    return 0;
} catch (const std::bad_alloc&) {
    return -1;
}

GPUPREP_EXPORT void gp_release(char* buffer) { std::free(buffer); }
