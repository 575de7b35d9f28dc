// Element types, and how a float of each becomes the fp32 (or fp64) that kernels compute in.
#pragma once
#include <cstdint>
#include <cstring>

// Each instruction set compiles these headers into a namespace of its own, so that no inline
// function of one can stand in for another's at link time.
#ifndef PYDELTA_NAMESPACE
#define PYDELTA_NAMESPACE pydelta
#endif

// For what stands in inner loops, lambdas too: registers only if nothing is called.
#define PYDELTA_INLINE __attribute__((always_inline))

#ifdef __CUDACC__
#define PYDELTA_HD __host__ __device__ __forceinline__
#else
#define PYDELTA_HD inline
#endif

namespace PYDELTA_NAMESPACE {

// The codes that Python passes for a dtype: DTYPES in pydelta/core/codes.py.
enum class Dtype : int { f32 = 0, bf16 = 1, f16 = 2, f64 = 3 };

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

// Compute type: fp64 for fp64, fp32 for all else.
template <class T>
struct compute {
  using type = float;
};
template <>
struct compute<double> {
  using type = double;
};
template <class T>
using compute_t = typename compute<T>::type;

// The unsigned integer of a compute type's size; its top bit is the sign.
template <class C>
struct bits_of;
template <>
struct bits_of<float> {
  using type = uint32_t;
};
template <>
struct bits_of<double> {
  using type = uint64_t;
};
template <class C>
using bits_t = typename bits_of<C>::type;

template <class To, class From>
PYDELTA_HD To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast needs equal sizes");
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

}  // namespace PYDELTA_NAMESPACE
