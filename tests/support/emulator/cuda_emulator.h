// Runs CUDA kernels on the CPU: each thread of a block is a fiber, and blocks run one after the other. Only
// what csrc/cuda uses is here. For GCC on x86-64, and for one launch at a time.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <type_traits>

// The language.
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__
#define __grid_constant__
#define __launch_bounds__(...)
#define __CUDA_ARCH_LIST__ 900

using std::max;
using std::min;

struct uint2 {
  uint32_t x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }

// The machine.
namespace emulator {

constexpr int kMostThreads = 512;
constexpr int kMostShared = 163 << 10;  // as an A100 has it

struct Fiber {
  dim3 index;
  void* stack = nullptr;
  bool done = false;
  int parity = 0;
};
struct Barrier {
  int size, count = 0;
  unsigned generation = 0;
};

Fiber& self();
Barrier& thread_block();
Barrier& warp();
// Returns when as many fibers have called it as the barrier waits for.
void wait(Barrier& barrier);
// A place for each lane of this fiber's warp. Two turns alternate, so that a fast lane overwrites nothing
// that a slow one still reads.
uint64_t* exchanged_words();
// Ends the launch, which throws std::runtime_error.
[[noreturn]] void fail(const char* message);
void run(dim3 grid, dim3 block, size_t shared, const std::function<void()>& kernel);

template <class T>
T shuffle(T value, int lane) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  uint64_t* words = exchanged_words();
  memcpy(&words[self().index.x % 32], &value, sizeof(T));
  wait(warp());
  memcpy(&value, &words[lane % 32], sizeof(T));
  return value;
}

}  // namespace emulator

#define threadIdx (emulator::self().index)
extern dim3 blockIdx, gridDim;

inline void __syncthreads() { emulator::wait(emulator::thread_block()); }

template <class T>
T __shfl_sync(unsigned, T value, int lane) {
  return emulator::shuffle(value, lane);
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return emulator::shuffle(value, int(threadIdx.x % 32) ^ mask);
}
template <class T>
T __shfl_up_sync(unsigned, T value, int delta) {
  const int lane = int(threadIdx.x % 32);
  return emulator::shuffle(value, lane < delta ? lane : lane - delta);
}
inline unsigned __reduce_add_sync(unsigned, unsigned value) {
  for (int mask = 1; mask < 32; mask *= 2) value += __shfl_xor_sync(~0u, value, mask);
  return value;
}

// Fibers give way at barriers alone.
template <class T>
T atomicAdd(T* p, T value) {
  const T before = *p;
  *p += value;
  return before;
}

template <class T>
void __stcs(T* p, T value) {
  if (reinterpret_cast<uintptr_t>(p) % sizeof(T) != 0) emulator::fail("a store of a vector is not aligned");
  *p = value;
}

inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float __fmaf_rn(float a, float b, float c) { return std::fmaf(a, b, c); }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }

// The runtime.
using cudaError_t = int;
using cudaStream_t = void*;
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrL2CacheSize = 38,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
};
enum {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInsufficientDriver = 35,
  cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
};

inline const char* cudaGetErrorString(cudaError_t) { return "invalid argument"; }

inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaGetDeviceCount(int* devices) {
  *devices = 1;
  return cudaSuccess;
}
inline cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
inline cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}

// A single multiprocessor: then a block takes several rows, one after the other. A second-level cache that a
// few short rows fill: then blocks of rows are many.
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const char* shared = getenv("EMULATED_SHARED_BYTES");
  if (attribute == cudaDevAttrMultiProcessorCount) *value = 1;
  if (attribute == cudaDevAttrL2CacheSize) *value = 8192;
  if (attribute == cudaDevAttrComputeCapabilityMajor) *value = 9;
  if (attribute == cudaDevAttrMaxSharedMemoryPerBlockOptin) {
    *value = shared != nullptr ? atoi(shared) : emulator::kMostShared;
  }
  return cudaSuccess;
}

template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel, int, int bytes) {
  return bytes <= emulator::kMostShared ? cudaSuccess : cudaErrorInvalidValue;
}

inline cudaError_t cudaMallocAsync(void** p, size_t bytes, cudaStream_t) {
  *p = aligned_alloc(256, (bytes + 255) / 256 * 256);
  memset(*p, 0xff, bytes);  // NaN
  return cudaSuccess;
}
inline cudaError_t cudaFreeAsync(void* p, cudaStream_t) {
  free(p);
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t) {
  memset(p, value, bytes);
  return cudaSuccess;
}

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  emulator::run(config->gridDim, config->blockDim, config->dynamicSmemBytes, [&] { kernel(arguments...); });
  return cudaSuccess;
}
