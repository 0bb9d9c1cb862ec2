// Reads the functional groups of a multi-frame file: the bytes of the elements asked for, in each frame.
//
// Frames share most of their values, so that each value of an element is delivered once, and for each frame its number.
#include <array>
#include <cstdlib>
#include <unordered_map>

#include "dicom_file.hpp"
#include "export.hpp"

using namespace gpuprep::dicom;

namespace {

constexpr std::uint32_t kSharedGroups = 0x52009229, kFrameGroups = 0x52009230;
constexpr std::uint32_t kLongestValue = 4096;
constexpr std::int32_t kAbsent = -1;

// Element `tag` of the items of `sequence`, where kFrameGroups stands for both sequences of groups.
struct Column {
    std::uint32_t sequence, tag;
    bool is_sequence;
    std::unordered_map<std::string, std::int32_t> numbers;  // of its values: VR and bytes
};

struct Value {
    std::int32_t column, vr;
    std::int64_t length;
};

class GroupsVisitor {
public:
    GroupsVisitor(Bytes& bytes, std::vector<Column>& columns)
        : values({{kAbsent, 0, 0}}), rows(columns.size(), kAbsent), bytes_(bytes), columns_(columns) {}

    std::vector<Value> values;        // the first one is that of sequences
    std::string contents;             // of all values
    std::vector<std::int32_t> rows;   // numbers of values: the shared groups, then each frame
    const char* fault = nullptr;

    void item(std::uint32_t sequence, int depth) {
        const std::size_t level = static_cast<std::size_t>(depth);
        ++items_[level];
        if (sequence == kFrameGroups)
            rows.resize(rows.size() + columns_.size(), kAbsent);
        else if (sequence != kSharedGroups)
            number(entered_[level]) = 0;
    }

    // Takes the first item of a sequence; of the groups of frames, each.
    Step element(const Element& element, std::uint32_t sequence, int depth) {
        const std::size_t level = static_cast<std::size_t>(depth);
        if (depth == 0) {
            if (element.tag >= kFloatPixelData && element.tag <= kPixelData) return Step::kStop;
            const bool is_entered = element.tag == kSharedGroups || element.tag == kFrameGroups;
            return is_entered ? enter(element, level) : Step::kSkip;
        }
        if (sequence != kFrameGroups && items_[level - 1] > 1) return Step::kSkip;
        const std::uint32_t owner = sequence == kSharedGroups ? kFrameGroups : sequence;
        for (std::size_t i = 0; i < columns_.size(); ++i) {
            if (columns_[i].sequence != owner || columns_[i].tag != element.tag) continue;
            entered_[level] = i;
            if (columns_[i].is_sequence) return enter(element, level);
            take(element, i);
            return fault ? Step::kStop : Step::kSkip;
        }
        return Step::kSkip;
    }

private:
    Step enter(const Element& element, std::size_t level) {
        items_[level] = 0;
        if (element.vr == 0 || element.vr == vr_code('S', 'Q')) return Step::kEnter;
        fault = "sequence has an odd VR";
        return Step::kStop;
    }

    std::int32_t& number(std::size_t column) { return rows[rows.size() - columns_.size() + column]; }

    void take(const Element& element, std::size_t column) {
        const std::uint8_t* p = element.length > kLongestValue ? nullptr : bytes_.at(element.value, element.length);
        if (!p) {
            fault = "value too long or truncated";
            return;
        }
        key_.assign(1, static_cast<char>(element.vr & 0xFF));
        key_ += static_cast<char>(element.vr >> 8);
        key_.append(reinterpret_cast<const char*>(p), element.length);
        const auto [found, is_new] =
            columns_[column].numbers.try_emplace(key_, static_cast<std::int32_t>(values.size()));
        if (is_new) {
            values.push_back({static_cast<std::int32_t>(column), element.vr, element.length});
            contents.append(key_, 2);
        }
        number(column) = found->second;
    }

    Bytes& bytes_;
    std::vector<Column>& columns_;
    std::array<int, kDeepest + 1> items_{};            // that began in the sequence entered at each depth
    std::array<std::size_t, kDeepest + 1> entered_{};  // its column
    std::string key_;
};

}  // namespace

// Reads the functional groups of the open `file` of `size` bytes. Column i is element `tags[i]` of `sequences[i]`: of
// 0x52009230, the groups of each frame and the shared ones, or of the first item of another column.
// *out and *out_size receive, to be released with gp_release: two int64, how many rows and values follow; for each row
// (the shared groups, then each frame) the int32 number of the value in each column, 0 for a sequence that has an item
// and -1 for what is absent; for each value int32 column, int32 VR (0 in implicit VR) and int64 length, the first being
// that of sequences; the bytes of all values. Returns 0; 1 when the file is declined, *out then says why; -1 without
// memory.
GPUPREP_EXPORT int gp_read_groups(int file, std::int64_t size, const std::uint32_t* sequences,
                                  const std::uint32_t* tags, std::int64_t column_count, char** out,
                                  std::int64_t* out_size) try {
    std::vector<Column> columns;
    for (std::int64_t i = 0; i < column_count; ++i) {
        const bool is_sequence = std::find(sequences, sequences + column_count, tags[i]) != sequences + column_count;
        columns.push_back({sequences[i], tags[i], is_sequence, {}});
    }
    std::vector<std::uint8_t> window;
    Bytes bytes(file, static_cast<std::uint64_t>(size), window);
    DataSet data_set;
    GroupsVisitor visitor(bytes, columns);
    const char* fault = open_data_set(bytes, data_set);
    if (!fault) {
        Walker<GroupsVisitor> walker(bytes, visitor);
        fault = walker.walk(data_set.position, data_set.implicit);
        if (visitor.fault) fault = visitor.fault;
    }
    std::string text;
    const auto append = [&text](const void* from, std::size_t count) {
        text.append(static_cast<const char*>(from), count);
    };
    if (fault) {
        text = fault;
    } else {
        const std::int64_t counts[] = {static_cast<std::int64_t>(visitor.rows.size() / columns.size()),
                                       static_cast<std::int64_t>(visitor.values.size())};
        append(counts, sizeof counts);
        append(visitor.rows.data(), visitor.rows.size() * sizeof visitor.rows[0]);
        append(visitor.values.data(), visitor.values.size() * sizeof visitor.values[0]);
        text += visitor.contents;
    }
    *out = static_cast<char*>(std::malloc(text.size() + 1));
    if (!*out) return -1;
    std::copy(text.begin(), text.end(), *out);
    *out_size = static_cast<std::int64_t>(text.size());
    return fault ? 1 : 0;
} catch (const std::bad_alloc&) {
    return -1;
}
