// usage: fuzz MUTANT COUNT SEED...   reads COUNT mutations of each seed file with all DICOM readers. Fixed seed.
#include <fcntl.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <vector>

extern "C" {
int gp_scan_headers(const char*, std::int64_t, const std::uint32_t*, const char*, std::int64_t, std::uint32_t,
                    const char*, std::int64_t, const std::int64_t*, std::int64_t, unsigned, char**, std::int64_t*);
int gp_read_groups(int, std::int64_t, const std::uint32_t*, const std::uint32_t*, std::int64_t, char**, std::int64_t*);
int gp_read_rtstruct(const std::uint8_t*, std::int64_t, char**, std::int64_t*);
int gp_parse_decimals(const char*, std::int64_t, const std::int64_t*, const std::int64_t*, std::int64_t, double*,
                      std::int64_t*);
void gp_release(char*);
}

namespace {

using Content = std::vector<std::uint8_t>;

void mutate(Content& content, std::mt19937& random) {
    const auto below = [&random](std::size_t n) { return static_cast<std::size_t>(random() % n); };
    for (std::size_t times = 1 + below(4); times-- && !content.empty();) {
        const std::size_t at = below(content.size());
        switch (below(5)) {
            case 0: content[at] ^= static_cast<std::uint8_t>(1u << below(8)); break;
            case 1: content[at] = static_cast<std::uint8_t>(below(256)); break;
            case 2: content.resize(at); break;
            case 3: content[at] = 0xFF; break;
            default: content.insert(content.begin() + static_cast<std::ptrdiff_t>(at), 4, 0xFF);
        }
    }
}

void read_header(const std::string& path) {
    const std::uint32_t tags[] = {0x00020010, 0x00080016, 0x00189087, 0x00200032, 0x00280010, 0x00281050, 0};
    const std::int64_t references[] = {0, 0,          0x30060010, -1, 0, 0x30060010, 0x30060012, -1,
                                       0, 0x30060012, 0x30060014, -1, 0, 0x30060014, 0x30060016, -1,
                                       0, 0x30060016, 0x00081155, 6,  0, 0,          0x30060039, -1};
    char* out = nullptr;
    std::int64_t size = 0;
    if (gp_scan_headers(path.c_str(), 1, tags, "LOLOFDLOUSLOLO", 7, 100, "1.2.840.10008.5.1.4.1.1.481.3", 1,
                        references, 6, 1, &out, &size) == 0)
        gp_release(out);
}

void read_groups(const std::string& path, const Content& content) {
    const std::uint32_t sequences[] = {0x52009230, 0x00209113, 0x52009230, 0x0062000A};
    const std::uint32_t tags[] = {0x00209113, 0x00200032, 0x0062000A, 0x0062000B};
    const int file = open(path.c_str(), O_RDONLY);
    char* out = nullptr;
    std::int64_t size = 0;
    if (gp_read_groups(file, static_cast<std::int64_t>(content.size()), sequences, tags, 4, &out, &size) >= 0)
        gp_release(out);
    close(file);
}

void read_rtstruct(const Content& content) {
    // An exact block on the heap: the sanitizer sees the first byte read past it.
    const std::unique_ptr<std::uint8_t[]> exact(new std::uint8_t[content.size()]);
    std::copy(content.begin(), content.end(), exact.get());
    const auto size = static_cast<std::int64_t>(content.size());
    char* out = nullptr;
    std::int64_t out_size = 0;
    if (gp_read_rtstruct(exact.get(), size, &out, &out_size) >= 0) gp_release(out);
    const std::int64_t offset = 0;
    const std::unique_ptr<double[]> numbers(new double[(content.size() + 1) / 2]);
    std::int64_t count = 0;
    gp_parse_decimals(reinterpret_cast<const char*>(exact.get()), size, &offset, &size, 1, numbers.get(), &count);
}

}  // namespace

int main(int argc, char** argv) {
    std::mt19937 random(20240102);
    for (int i = 3; i < argc; ++i) {
        std::ifstream stream(argv[i], std::ios::binary);
        const Content seed{std::istreambuf_iterator<char>(stream), {}};
        for (int n = std::stoi(argv[2]); n--;) {
            Content mutant = seed;
            mutate(mutant, random);
            std::ofstream(argv[1], std::ios::binary)
                .write(reinterpret_cast<const char*>(mutant.data()), static_cast<std::streamsize>(mutant.size()));
            read_header(argv[1]);
            read_groups(argv[1], mutant);
            read_rtstruct(mutant);
        }
    }
    return 0;
}
