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
#endif

// LANES elements moved at once. The address must be a multiple of 16 bytes (of sizeof for packs smaller than that).
template <class T>
struct __align__(sizeof(T) * LANES < 16 ? sizeof(T) * LANES : 16) Pack {
    T v[LANES];
};
