// Runs CUDA kernel text on the host. A .cu file is included inside a struct derived from Thread, so that threadIdx and
// its kin are members and cost nothing; a launch is a loop nest over blocks and threads that the compiler vectorises.
// Barriers, shared memory and warp intrinsics do not exist here: kernels must do without.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>

#include "gpuprep.cuh"
#include "pool.hpp"

#define __launch_bounds__(...)

namespace cuda_host {

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};

struct Thread {
    const dim3 threadIdx, blockIdx, blockDim, gridDim;
};

// CUDA's built-in functions, with CUDA's rounding. Out of range and NaN are undefined here: clamp first.
inline int __float2int_rn(float v) { return static_cast<int>(__builtin_rintf(v)); }

template <class T>
T atomicXor(T* p, T v) {
    return __atomic_fetch_xor(p, v, __ATOMIC_RELAXED);
}
template <class T>
T atomicOr(T* p, T v) {
    return __atomic_fetch_or(p, v, __ATOMIC_RELAXED);
}
template <class T>
T atomicAdd(T* p, T v) {
    return __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
}
template <class T>
T atomicCAS(T* p, T expected, T v) {
    __atomic_compare_exchange_n(p, &expected, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return expected;
}
template <class T>
T atomicMin(T* p, T v) {
    T old = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (v < old && !__atomic_compare_exchange_n(p, &old, v, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return old;
}
template <class T>
T atomicMax(T* p, T v) {
    T old = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (v > old && !__atomic_compare_exchange_n(p, &old, v, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return old;
}

template <class T>
constexpr T min(T a, T b) {
    return b < a ? b : a;
}
template <class T>
constexpr T max(T a, T b) {
    return a < b ? b : a;
}

using ::fmaf;

// Parameter types as the type characters of Python's struct module; a pointer is P and its element, x for a struct.
template <class T>
struct TypeCode {
    static constexpr const char* text = "x";
};
#define GPUPREP_TYPE_CODE(T, CODE)                  \
    template <>                                     \
    struct TypeCode<T> {                            \
        static constexpr const char* text = CODE;   \
    };
GPUPREP_TYPE_CODE(i8, "b")
GPUPREP_TYPE_CODE(u8, "B")
GPUPREP_TYPE_CODE(i16, "h")
GPUPREP_TYPE_CODE(u16, "H")
GPUPREP_TYPE_CODE(i32, "i")
GPUPREP_TYPE_CODE(u32, "I")
GPUPREP_TYPE_CODE(i64, "q")
GPUPREP_TYPE_CODE(u64, "Q")
GPUPREP_TYPE_CODE(f32, "f")
GPUPREP_TYPE_CODE(f64, "d")
#undef GPUPREP_TYPE_CODE
template <class T>
std::string type_code(T*) {
    return std::string("P") + TypeCode<std::remove_cv_t<T>>::text;
}
template <class T>
std::string type_code(T) {
    return TypeCode<T>::text;
}

using Run = void (*)(dim3 grid, dim3 block, void** args, unsigned workers);

struct Entry {
    const char* name;
    const char* file;
    std::string signature;
    Run run;
};

// Called by static initialisers: the generated file of each .cu, and row forms (ROW_FORM below).
bool register_kernels(std::initializer_list<Entry> entries);
bool register_row_forms(std::initializer_list<Entry> entries);

// Launches of fewer threads than this stay on the calling thread: waking another one costs more.
constexpr std::size_t kInlineThreads = 256;

template <class K, auto Member>
struct Launch;

template <class K, class... A, void (K::*Member)(A...)>
struct Launch<K, Member> {
    static Entry entry(const char* name, const char* file) { return {name, file, (std::string() + ... + type_code(A())), &run}; }

    static void run(dim3 grid, dim3 block, void** args, unsigned workers) {
        unpack(grid, block, args, workers, std::index_sequence_for<A...>());
    }

    template <std::size_t... I>
    static void unpack(dim3 grid, dim3 block, void** args, unsigned workers, std::index_sequence<I...>) {
        blocks(grid, block, workers, *static_cast<A*>(args[I])...);
    }

    static void blocks(dim3 grid, dim3 block, unsigned workers, A... a) {
        const std::size_t threads = std::size_t(block.x) * block.y * block.z;
        gpuprep::parallel_for(std::size_t(grid.x) * grid.y * grid.z, (kInlineThreads - 1) / threads + 1, workers,
                              [=](std::size_t i, std::size_t end) {
                                  for (; i < end; ++i)
                                      one_block(grid, block,
                                                {unsigned(i % grid.x), unsigned(i / grid.x % grid.y),
                                                 unsigned(i / grid.x / grid.y)},
                                                a...);
                              });
    }

    static void one_block(const dim3 grid, const dim3 block, const dim3 at, A... a) {
        for (unsigned z = 0; z < block.z; ++z)
            for (unsigned y = 0; y < block.y; ++y)
                GPUPREP_INDEPENDENT
                for (unsigned x = 0; x < block.x; ++x) (K{{{x, y, z}, at, block, grid}}.*Member)(a...);
    }
};

// A row form: a host-only function that does what a whole launch of a kernel does, only faster, with the same result.
template <auto Function>
struct RowForm;

template <class... A, void (*Function)(dim3, dim3, unsigned, A...)>
struct RowForm<Function> {
    static Entry entry(const char* name, const char* file) { return {name, file, (std::string() + ... + type_code(A())), &run}; }

    static void run(dim3 grid, dim3 block, void** args, unsigned workers) {
        unpack(grid, block, args, workers, std::index_sequence_for<A...>());
    }

    template <std::size_t... I>
    static void unpack(dim3 grid, dim3 block, void** args, unsigned workers, std::index_sequence<I...>) {
        Function(grid, block, workers, *static_cast<A*>(args[I])...);
    }
};

}  // namespace cuda_host

#define GPUPREP_KERNEL(name) cuda_host::Launch<Kernels, &Kernels::name>::entry(#name, kFile)

// ROW_FORM(kernel, function): launches of `kernel` run void function(dim3 grid, dim3 block, unsigned workers, <the
// kernel's parameters>) instead of the executor's loop nest.
#define ROW_FORM(kernel, function) \
    static const bool row_form_##kernel = cuda_host::register_row_forms({cuda_host::RowForm<&function>::entry(#kernel, __FILE__)})
