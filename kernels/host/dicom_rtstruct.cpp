// Reads an RTSTRUCT from memory: its ROIs, contours and codes as texts, and where the numbers of each contour are.
#include <charconv>
#include <cmath>
#include <cstdlib>

#include "dicom_file.hpp"
#include "export.hpp"

using namespace gpuprep::dicom;

namespace {

constexpr std::uint32_t kRoiSequence = 0x30060020, kContourItems = 0x30060039, kContours = 0x30060040;
constexpr std::uint32_t kFrames = 0x30060010, kObservations = 0x30060080;
constexpr std::uint32_t kLongestText = 4096;

// Where an observation has codes (PS3.3 C.8.8.8), and what Python calls them.
struct CodeSequence {
    std::uint32_t tag, parent;
    std::string_view name;
};
constexpr CodeSequence kCodeSequences[] = {
    {0x00620003, kObservations, "category"}, {0x30060086, kObservations, "type"},
    {0x00620011, 0x30060086, "type_modifiers"}, {0x00082218, kObservations, "region"},
    {0x00082220, 0x00082218, "region_modifiers"},
};

const CodeSequence* find_code_sequence(std::uint32_t tag) {
    for (const CodeSequence& one : kCodeSequences)
        if (one.tag == tag) return &one;
    return nullptr;
}

struct Contour {
    std::string type, point_count;
    std::uint64_t data = 0;
    std::uint32_t data_length = 0;
};

struct ContourItem {
    std::string roi_number, colour;
    std::vector<Contour> contours;
};

struct Roi {
    std::string number, frame_uid, name;
};

struct Code {
    std::string_view name;
    std::string scheme, value, meaning;
};

struct Observation {
    std::string roi_number;
    std::vector<Code> codes;
};

class StructureVisitor {
public:
    explicit StructureVisitor(Bytes& bytes) : bytes_(bytes) {}

    const char* fault() const { return fault_; }

    void item(std::uint32_t sequence, int) {
        if (sequence == kRoiSequence) rois_.emplace_back();
        if (sequence == kContourItems) items_.emplace_back();
        if (sequence == kContours) items_.back().contours.emplace_back();
        if (sequence == kObservations) observations_.emplace_back();
        if (const CodeSequence* of = find_code_sequence(sequence)) observations_.back().codes.push_back({of->name, {}, {}, {}});
    }

    Step element(const Element& element, std::uint32_t sequence, int) {
        if (const bool is_deeper = enters(element, sequence); is_deeper) {
            const bool is_sequence = element.vr == 0 || element.vr == vr_code('S', 'Q');
            if (!is_sequence) fault_ = "sequence has an odd VR";
            return is_sequence ? Step::kEnter : Step::kStop;
        }
        if (sequence == kContours && element.tag == 0x30060050) {
            if (element.length == kUndefinedLength) fault_ = "contour data of undefined length";
            items_.back().contours.back().data = element.value;
            items_.back().contours.back().data_length = element.length;
        } else if (std::string* text = wanted_text(element.tag, sequence)) {
            fault_ = read_text(bytes_, element, kLongestText, *text);
        }
        return fault_ ? Step::kStop : Step::kSkip;
    }

    // One record a line of the structure set: H header, R ROI, I contour item, C contour of the item before,
    // O observation, K code of the observation before.
    std::string records() const {
        std::string out;
        const auto record = [&out](char kind, std::initializer_list<std::string_view> texts) {
            out += kind;
            for (const std::string_view text : texts) (out += kFieldEnd) += text;
            out += kRecordEnd;
        };
        record('H', {sop_class_, sop_instance_, character_set_, label_, frame_});
        for (const Roi& roi : rois_) record('R', {roi.number, roi.name, roi.frame_uid});
        for (const ContourItem& item : items_) {
            record('I', {item.roi_number, item.colour});
            for (const Contour& contour : item.contours)
                record('C', {contour.type, contour.point_count, std::to_string(contour.data),
                             std::to_string(contour.data_length)});
        }
        for (const Observation& observation : observations_) {
            record('O', {observation.roi_number});
            for (const Code& code : observation.codes) record('K', {code.name, code.scheme, code.value, code.meaning});
        }
        return out;
    }

private:
    static bool enters(const Element& element, std::uint32_t sequence) {
        if (sequence == 0)
            return element.tag == kFrames || element.tag == kRoiSequence || element.tag == kContourItems ||
                   element.tag == kObservations;
        if (sequence == kContourItems) return element.tag == kContours;
        const CodeSequence* codes = find_code_sequence(element.tag);
        return codes && codes->parent == sequence;
    }

    std::string* wanted_text(std::uint32_t tag, std::uint32_t sequence) {
        switch (sequence) {
            case 0:
                return tag == 0x00080005   ? &character_set_
                       : tag == 0x00080016 ? &sop_class_
                       : tag == 0x00080018 ? &sop_instance_
                       : tag == 0x30060002 ? &label_
                                           : nullptr;
            case kFrames:
                return tag == 0x00200052 && frame_.empty() ? &frame_ : nullptr;
            case kRoiSequence:
                return tag == 0x30060022   ? &rois_.back().number
                       : tag == 0x30060024 ? &rois_.back().frame_uid
                       : tag == 0x30060026 ? &rois_.back().name
                                           : nullptr;
            case kContourItems:
                return tag == 0x3006002A   ? &items_.back().colour
                       : tag == 0x30060084 ? &items_.back().roi_number
                                           : nullptr;
            case kContours:
                return tag == 0x30060042   ? &items_.back().contours.back().type
                       : tag == 0x30060046 ? &items_.back().contours.back().point_count
                                           : nullptr;
            case kObservations:
                return tag == 0x30060084 ? &observations_.back().roi_number : nullptr;
        }
        return find_code_sequence(sequence) ? code_text(tag, observations_.back().codes.back()) : nullptr;
    }

    // The Code Value has three places, by length and kind (PS3.3 8.1).
    static std::string* code_text(std::uint32_t tag, Code& code) {
        if (tag == 0x00080100 || ((tag == 0x00080119 || tag == 0x00080120) && code.value.empty())) return &code.value;
        return tag == 0x00080102 ? &code.scheme : tag == 0x00080104 ? &code.meaning : nullptr;
    }

    Bytes& bytes_;
    std::string sop_class_, sop_instance_, character_set_, label_, frame_;
    std::vector<Roi> rois_;
    std::vector<ContourItem> items_;
    std::vector<Observation> observations_;
    const char* fault_ = nullptr;
};

// What may stand around a number; the same as _PADDING in gpuprep/dicom/header.py.
const char* skip_padding(const char* p, const char* end) {
    while (p != end && (*p == ' ' || *p == '\0' || *p == '\t' || *p == '\r' || *p == '\n')) ++p;
    return p;
}

// Parses numbers between backslashes (VR DS, PS3.5 table 6.2-1) with padding around them into `out`, which has room
// for them: (length + 1) / 2. Returns how many, or -1 when one is garbled, empty or not finite.
std::int64_t parse_decimals(std::string_view text, double* out) {
    const double* const begin = out;
    const char *p = text.data(), *const end = p + text.size();
    if (skip_padding(p, end) == end) return 0;
    for (;; ++p) {
        p = skip_padding(p, end);
        if (p != end && *p == '+' && p + 1 != end && p[1] != '-') ++p;
        const auto [after, error] = std::from_chars(p, end, *out);
        if (error != std::errc() || !std::isfinite(*out)) return -1;
        ++out;
        p = skip_padding(after, end);
        if (p == end) return out - begin;
        if (*p != '\\') return -1;
    }
}

}  // namespace

// Reads the structure set in `size` bytes of a DICOM file. *out and *out_size receive its records (see records()), to
// be released with gp_release; offsets in them count from the first byte of the file. Returns 0; 1 when the file is
// declined, *out then says why; -1 without memory.
GPUPREP_EXPORT int gp_read_rtstruct(const std::uint8_t* data, std::int64_t size, char** out,
                                    std::int64_t* out_size) try {
    Bytes bytes(data, static_cast<std::uint64_t>(size));
    DataSet data_set;
    StructureVisitor visitor(bytes);
    const char* fault = open_data_set(bytes, data_set);
    if (!fault) {
        Walker<StructureVisitor> walker(bytes, visitor);
        fault = walker.walk(data_set.position, data_set.implicit);
        if (visitor.fault()) fault = visitor.fault();
    }
    const std::string text = fault ? std::string(fault) : visitor.records();
    *out = static_cast<char*>(std::malloc(text.size() + 1));
    if (!*out) return -1;
    std::copy(text.begin(), text.end(), *out);
    *out_size = static_cast<std::int64_t>(text.size());
    return fault ? 1 : 0;
} catch (const std::bad_alloc&) {
    return -1;
}

// Parses `count` lists of decimal numbers, list i in `lengths[i]` bytes from `data + offsets[i]`, one after another
// into `out`; counts[i] receives how many list i holds, or -1 when it is garbled and takes no room. `out` has room for
// (lengths[i] + 1) / 2 numbers a list. Returns 0, or -1 when a list is not within the `size` bytes of `data`.
GPUPREP_EXPORT int gp_parse_decimals(const char* data, std::int64_t size, const std::int64_t* offsets,
                                     const std::int64_t* lengths, std::int64_t count, double* out,
                                     std::int64_t* counts) {
    for (std::int64_t i = 0; i < count; ++i) {
        if (offsets[i] < 0 || lengths[i] < 0 || offsets[i] > size || lengths[i] > size - offsets[i]) return -1;
        counts[i] = parse_decimals({data + offsets[i], static_cast<std::size_t>(lengths[i])}, out);
        if (counts[i] > 0) out += counts[i];
    }
    return 0;
}
