// base + lam * y, where y is a superposition transformed back; codes may stand for it.
#pragma once
#include "launch.cuh"

namespace PYDELTA_NAMESPACE {

// S: the type of the superposition's elements; From: what they are loaded from.
template <class S, class From, class B>
struct Retrieve {
  using Source = S;
  using Base = B;
  static constexpr Use kBase = Use::result;
  static constexpr bool kSums = false;

  From superposed;
  const B* base;
  void* out;
  Dtype out_dtype;
  Key only;
  float lam;

  __device__ static constexpr int models() { return 1; }
  __device__ const From& source(int) const { return superposed; }
  __device__ Key key(int) const { return only; }
  __device__ static float delta(float s, float, int) { return s; }
  __device__ float result(float y, float b) const { return __fadd_rn(b, __fmul_rn(y, lam)); }

  template <int V>
  bool aligned_for() const {
    return aligned<V>(superposed, sizeof(S)) && aligned<V>(base, sizeof(B)) &&
           aligned<V>(out, size_of(out_dtype));
  }
};

inline Task retrieval(const char* op, Axis axis, Transform transform) {
  const int64_t block = default_block(axis.n);
  Task task{op, axis, transform, block, orthonormal(block)};
  task.inverse = true;
  return task;
}

}  // namespace PYDELTA_NAMESPACE
