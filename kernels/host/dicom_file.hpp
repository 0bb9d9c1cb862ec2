// Opens a DICOM file: finds its data set and how that is encoded (PS3.10 section 7.1, PS3.5 annex A). Reads texts.
#pragma once

#include <string>

#include "dicom_walk.hpp"

namespace gpuprep::dicom {

// What separates fields and records of the texts that Python receives; no value may hold them.
constexpr char kFieldEnd = '\x1f', kRecordEnd = '\x1e';
constexpr std::uint32_t kMediaClass = 0x00020002, kTransferSyntax = 0x00020010;
constexpr std::uint32_t kLongestUid = 64;  // PS3.5 table 6.2-1
constexpr std::string_view kImplicitLittle = "1.2.840.10008.1.2", kExplicitLittle = "1.2.840.10008.1.2.1";

inline std::string_view trimmed(std::string_view text) {
    const auto is_pad = [](char c) { return c == ' ' || c == '\0'; };
    while (!text.empty() && is_pad(text.back())) text.remove_suffix(1);
    while (!text.empty() && is_pad(text.front())) text.remove_prefix(1);
    return text;
}

inline bool is_text_vr(std::uint16_t vr) {
    static constexpr char kNames[] = "AEASCSDADSDTISLOLTPNSHSTTMUCUIURUT";
    for (std::size_t i = 0; i + 1 < sizeof kNames; i += 2)
        if (vr == vr_code(kNames[i], kNames[i + 1])) return true;
    return false;
}

// Reads the first `longest` bytes of a text, without padding; null when all is well, else why it was declined.
inline const char* read_text(Bytes& bytes, const Element& element, std::uint32_t longest, std::string& text) {
    if (element.length == kUndefinedLength) return "text of undefined length";
    if (element.vr != 0 && element.vr != vr_code('U', 'N') && !is_text_vr(element.vr)) return "text has an odd VR";
    const std::uint32_t length = std::min(element.length, longest);
    const std::uint8_t* p = bytes.at(element.value, length);
    if (!p) return "truncated";
    text = trimmed({reinterpret_cast<const char*>(p), length});
    return text.find(kFieldEnd) != text.npos || text.find(kRecordEnd) != text.npos ? "control character" : nullptr;
}

// Whether the data set of a transfer syntax is explicit VR, little endian, and not deflated (PS3.5 annex A).
inline bool is_explicit_little(std::string_view uid) {
    if (uid == kExplicitLittle) return true;
    if (uid == "1.2.840.10008.1.2.4.95" || uid == "1.2.840.10008.1.2.4.205") return false;
    for (const std::string_view family : {"1.2.840.10008.1.2.4.", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.1.98",
                                          "1.2.840.10008.1.2.8."})
        if (uid.substr(0, family.size()) == family) return true;
    return false;
}

// Whether eight bytes at the start of a file without preamble may be an element of group 2 or 8.
inline bool may_begin_data_set(const std::uint8_t* p, std::uint64_t size) {
    const std::uint16_t little = load_u16(p), big = static_cast<std::uint16_t>(p[0] << 8 | p[1]);
    if (is_known_vr(load_u16(p + 4))) return little == 2 || little == 8 || big == 2 || big == 8;
    return (little == 2 || little == 8) && load_u32(p + 4) <= size;
}

struct DataSet {
    std::string media_class, transfer_syntax;
    bool has_preamble = false;
    bool implicit = false;
    std::uint64_t position = 0;
};

// Reads the file meta, explicit VR little endian; it ends with group 2, for its length (0002,0000) is often wrong.
inline const char* read_meta(Bytes& bytes, DataSet& data_set) {
    while (data_set.position < bytes.size()) {
        const std::uint8_t* p = bytes.at(data_set.position, 2);
        if (!p) return "truncated";
        if (load_u16(p) != 2) break;
        Element element{};
        const char* fault = read_element(bytes, data_set.position, false, element);
        if (!fault && element.length > bytes.size() - element.value) fault = "truncated";
        std::string* const text = element.tag == kMediaClass       ? &data_set.media_class
                                  : element.tag == kTransferSyntax ? &data_set.transfer_syntax
                                                                   : nullptr;
        if (!fault && text)
            fault = element.length > kLongestUid ? "UID too long" : read_text(bytes, element, kLongestUid, *text);
        if (fault) return fault;
        data_set.position = element.value + element.length;
    }
    return nullptr;
}

// Finds the data set of a file; null when all is well, "not-dicom", or why it was declined.
inline const char* open_data_set(Bytes& bytes, DataSet& data_set) {
    const std::uint8_t* p = bytes.at(128, 4);
    data_set.has_preamble = p && std::memcmp(p, "DICM", 4) == 0;
    data_set.position = data_set.has_preamble ? 132 : 0;
    if (!data_set.has_preamble) {
        p = bytes.at(0, 8);
        if (!p || !may_begin_data_set(p, bytes.size())) return "not-dicom";
        if (load_u16(p) == 8)
            data_set.transfer_syntax = is_known_vr(load_u16(p + 4)) ? kExplicitLittle : kImplicitLittle;
    }
    if (const char* fault = read_meta(bytes, data_set)) return fault;
    data_set.implicit = data_set.transfer_syntax == kImplicitLittle;
    if (!data_set.implicit && !is_explicit_little(data_set.transfer_syntax)) return "transfer syntax";
    p = bytes.at(data_set.position, 8);
    if (!p) return "truncated";
    if (load_u16(p) < 4) return "group below 4";
    if (data_set.implicit && is_upper(p[4]) && is_upper(p[5])) return "explicit VR in implicit VR";
    return nullptr;
}

}  // namespace gpuprep::dicom
