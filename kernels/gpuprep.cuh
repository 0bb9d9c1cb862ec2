// The only portability header: what a kernel file may use on every compiler that builds it.
#pragma once
typedef signed char i8;
typedef unsigned char u8;
typedef short i16;
typedef unsigned short u16;
typedef int i32;
typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;
typedef float f32;
typedef double f64;

#if defined(__CUDACC__)  // nvcc and NVRTC
#define KERNEL extern "C" __global__ void
#define DEVICE __device__ __forceinline__
#define LANES 8  // elements a thread: 16-byte accesses of 16-bit elements
#else            // host: a member function of a struct derived from cuda_host::Thread
#if defined(GPUPREP_LIST_KERNELS)
#define KERNEL gpuprep_kernel void  // what CMake looks for after the preprocessor
#else
#define KERNEL inline __attribute__((always_inline)) void
#endif
#define DEVICE static inline __attribute__((always_inline))
#define LANES 64  // the lane loops become vector code
#define __align__(n) __attribute__((aligned(n)))
#if defined(__clang__)
#define GPUPREP_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define GPUPREP_INDEPENDENT _Pragma("GCC ivdep")  // not `omp simd`: it makes an array of Thread and vectorises nothing
#endif
#endif

// Threads of a block, along x, that share a row: thread x has the columns x, x + ROW_THREADS, … On a GPU neighbouring
// threads then touch neighbouring columns; on the host one thread has the row to itself.
#if defined(__CUDACC__)
#define ROW_THREADS 32
#else
#define ROW_THREADS 1
#endif

// for (i32 l = 0; l < n; ++l), where n <= LANES; unrolled on a GPU, so that no load waits for the one before it.
#if defined(__CUDACC__)
#define FIRST_LANES(l, n)               \
    for (i32 l = 0; l < LANES; ++l)     \
        if (l < (n))
#else
#define FIRST_LANES(l, n) for (i32 l = 0; l < (n); ++l)
#endif

// Before a loop that NVRTC shall not unroll.
#if defined(__CUDACC__)
#define ROLLED _Pragma("unroll 1")
#else
#define ROLLED
#endif

// dst[l] = f(src[l]) for LANES elements, which may be the same memory if S and D are as wide. Addresses are multiples
// of 16 bytes, so that a GPU moves 16 bytes at once.
#if defined(__CUDACC__)
template <class T>
struct __align__(sizeof(T) * LANES < 16 ? sizeof(T) * LANES : 16) Pack {
    T v[LANES];
};
template <class S, class D, class F>
DEVICE void map_lanes(const S* src, D* dst, F f) {
    const Pack<S> p = *(const Pack<S>*)src;
    Pack<D> q;
    for (int l = 0; l < LANES; ++l) q.v[l] = f(p.v[l]);
    *(Pack<D>*)dst = q;
}
#else  // through a Pack, which would live on the stack, AVX2 code is four times slower
template <class S, class D, class F>
DEVICE void map_lanes(const S* src, D* dst, F f) {
    src = (const S*)__builtin_assume_aligned(src, 16);
    dst = (D*)__builtin_assume_aligned(dst, 16);
    GPUPREP_INDEPENDENT
    for (int l = 0; l < LANES; ++l) dst[l] = f(src[l]);
}
#endif
