// The C interface of the executor; gpuprep/backends/ is its only caller.
#include <cstdint>
#include <iterator>
#include <string_view>
#include <unordered_map>

#include "cuda_host.hpp"
#include "export.hpp"

namespace cuda_host {
namespace {

using Table = std::unordered_map<std::string_view, Entry>;

Table& kernels() {
    static Table table;
    return table;
}

Table& row_forms() {
    static Table table;
    return table;
}

const Entry* find(const Table& table, const char* name) {
    const auto found = table.find(name);
    return found == table.end() ? nullptr : &found->second;
}

bool within_cuda_limits(dim3 grid, dim3 block) {
    constexpr std::uint64_t kMaxBlockThreads = 1024, kMaxBlockZ = 64, kMaxGridYZ = 65535, kMaxGridX = 0x7fffffff;
    const auto positive = [](dim3 d) { return d.x > 0 && d.y > 0 && d.z > 0; };
    return positive(grid) && positive(block) && std::uint64_t(block.x) * block.y * block.z <= kMaxBlockThreads &&
           block.z <= kMaxBlockZ && grid.x <= kMaxGridX && grid.y <= kMaxGridYZ && grid.z <= kMaxGridYZ;
}

}  // namespace

bool register_kernels(std::initializer_list<Entry> entries) {
    for (const Entry& entry : entries) kernels().emplace(entry.name, entry);
    return true;
}

bool register_row_forms(std::initializer_list<Entry> entries) {
    for (const Entry& entry : entries) row_forms().emplace(entry.name, entry);
    return true;
}

}  // namespace cuda_host

using namespace cuda_host;

enum Status { kDone = 0, kUnknownKernel = 1, kBadDimensions = 2, kRowFormMismatch = 3, kException = 4 };

// Type characters of the kernel's parameters (see TypeCode), or null when there is no such kernel.
GPUPREP_EXPORT const char* gp_kernel_signature(const char* name) {
    const Entry* entry = find(kernels(), name);
    return entry == nullptr ? nullptr : entry->signature.c_str();
}

// Name of a kernel, in no particular order, or null from the number of kernels on.
GPUPREP_EXPORT const char* gp_kernel_name(unsigned index) {
    return index < kernels().size() ? std::next(kernels().begin(), index)->second.name : nullptr;
}

// Name of the .cu file that holds the kernel, or null.
GPUPREP_EXPORT const char* gp_kernel_file(const char* name) {
    const Entry* entry = find(kernels(), name);
    return entry == nullptr ? nullptr : entry->file;
}

GPUPREP_EXPORT int gp_lanes() { return LANES; }

// grid and block: three numbers each, x first. args: an address for each parameter, as cuLaunchKernel takes them.
// use_row_form 0 runs the kernel's own text even where a row form exists.
GPUPREP_EXPORT int gp_launch(const char* name, const unsigned* grid, const unsigned* block, void** args,
                             unsigned workers, int use_row_form) {
    const Entry* entry = find(kernels(), name);
    if (entry == nullptr) return kUnknownKernel;
    const dim3 g{grid[0], grid[1], grid[2]}, b{block[0], block[1], block[2]};
    if (!within_cuda_limits(g, b)) return kBadDimensions;
    const Entry* rows = use_row_form != 0 ? find(row_forms(), name) : nullptr;
    if (rows != nullptr && rows->signature != entry->signature) return kRowFormMismatch;
    try {
        (rows != nullptr ? rows : entry)->run(g, b, args, workers);
    } catch (...) {
        return kException;
    }
    return kDone;
}
