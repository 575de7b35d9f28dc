// Elements in device memory as 32-bit words, and as the floats that kernels compute in.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <type_traits>

#include "../core/types.h"

namespace PYDELTA_NAMESPACE {

// V consecutive elements as they lie in memory.
template <class T, int V>
struct Words {
  static constexpr int kCount = V * int(sizeof(T)) / 4;
  uint32_t w[kCount];
};

template <class T>
constexpr Dtype kDtype = sizeof(T) == 4            ? Dtype::f32
                         : std::is_same_v<T, bf16> ? Dtype::bf16
                                                   : Dtype::f16;

// Element i of two packed ones (of one, for float).
template <class T>
__device__ __forceinline__ float unpack(uint32_t word, int i);
template <>
__device__ __forceinline__ float unpack<float>(uint32_t word, int) {
  return bit_cast<float>(word);
}
template <>
__device__ __forceinline__ float unpack<bf16>(uint32_t word, int i) {
  return bit_cast<float>(i ? word & 0xffff0000u : word << 16);
}
template <>
__device__ __forceinline__ float unpack<f16>(uint32_t word, int i) {
  return __half2float(bit_cast<__half>(uint16_t(word >> (16 * i))));
}

// Two floats rounded to nearest even (one as it is, for float).
template <class T>
__device__ __forceinline__ uint32_t pack(float low, float high);
template <>
__device__ __forceinline__ uint32_t pack<float>(float low, float) {
  return bit_cast<uint32_t>(low);
}
template <>
__device__ __forceinline__ uint32_t pack<bf16>(float low, float high) {
  return bit_cast<uint32_t>(__floats2bfloat162_rn(low, high));
}
template <>
__device__ __forceinline__ uint32_t pack<f16>(float low, float high) {
  return bit_cast<uint32_t>(__floats2half2_rn(low, high));
}

template <class T, int V>
__device__ __forceinline__ float element(const Words<T, V>& words, int i) {
  constexpr int kPerWord = 4 / int(sizeof(T));
  return unpack<T>(words.w[i / kPerWord], i % kPerWord);
}

template <class T, int V>
__device__ __forceinline__ Words<T, V> rounded(const float* v) {
  constexpr int kPerWord = 4 / int(sizeof(T));
  Words<T, V> words;
#pragma unroll
  for (int i = 0; i < words.kCount; ++i) words.w[i] = pack<T>(v[i * kPerWord], v[(i + 1) * kPerWord - 1]);
  return words;
}

// `p` is aligned to the smaller of 16 bytes and the vector.

template <class T, int V>
__device__ __forceinline__ void load_vector(Words<T, V>& to, const T* p) {
  if constexpr (to.kCount == 2) {
    const uint2 a = *reinterpret_cast<const uint2*>(p);
    to.w[0] = a.x, to.w[1] = a.y;
  } else {
#pragma unroll
    for (int i = 0; i < to.kCount; i += 4) {
      const uint4 a = reinterpret_cast<const uint4*>(p)[i / 4];
      to.w[i] = a.x, to.w[i + 1] = a.y, to.w[i + 2] = a.z, to.w[i + 3] = a.w;
    }
  }
}

// A streaming store: results leave the cache before what is still to be read. (An assignment is not even kept
// whole: the compiler takes it apart into words.)
template <class T, int V>
__device__ __forceinline__ void store_vector(T* p, const Words<T, V>& from) {
  if constexpr (from.kCount == 2) {
    __stcs(reinterpret_cast<uint2*>(p), make_uint2(from.w[0], from.w[1]));
  } else {
#pragma unroll
    for (int i = 0; i < from.kCount; i += 4) {
      const uint4 a = make_uint4(from.w[i], from.w[i + 1], from.w[i + 2], from.w[i + 3]);
      __stcs(reinterpret_cast<uint4*>(p) + i / 4, a);
    }
  }
}

template <class T>
using Unsigned = std::conditional_t<sizeof(T) == 2, uint16_t, uint32_t>;

}  // namespace PYDELTA_NAMESPACE
