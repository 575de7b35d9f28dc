// hadamard, sign_flip and rotate: one tensor in, its transform out.
#pragma once
#include "launch.cuh"

namespace PYDELTA_NAMESPACE {

template <class T>
struct Map {
  using Source = T;
  using Base = T;
  static constexpr Use kBase = Use::never;
  static constexpr bool kSums = false;
  static constexpr Dtype out_dtype = kDtype<T>;

  const T* x;
  void* out;
  Key only;

  __device__ static constexpr int models() { return 1; }
  __device__ const T* source(int) const { return x; }
  __device__ Key key(int) const { return only; }
  __device__ static float delta(float x, float, int) { return x; }
  __device__ static float result(float v, float) { return v; }

  template <int V>
  bool aligned_for() const {
    return aligned<V>(x, sizeof(T)) && aligned<V>(out, sizeof(T));
  }
};

// Defined in hadamard.cu, for rotate too.
void map_blocks(const Task& task, const void* x, void* out, Dtype dtype, Key key, Stream stream);

}  // namespace PYDELTA_NAMESPACE
