#include "scratch.cuh"

namespace PYDELTA_NAMESPACE {
namespace {

// As many models as one launch takes.
constexpr int kModels = 32;

template <class T>
struct Superpose {
  using Source = T;
  using Base = T;
  static constexpr Use kBase = Use::delta;
  static constexpr bool kSums = true;

  const T* base;
  Model all[kModels];
  int count;
  const float* carry;  // the sum that an earlier launch left, or null
  void* out;
  Dtype out_dtype;

  __device__ int models() const { return count; }
  __device__ const T* source(int k) const { return static_cast<const T*>(all[k].tuned); }
  __device__ Key key(int k) const { return all[k].key; }
  __device__ float delta(float t, float b, int k) const { return __fmul_rn(__fsub_rn(t, b), all[k].weight); }
  __device__ static float result(float sum, float) { return sum; }

  template <int V>
  bool aligned_for() const {
    bool yes = aligned<V>(base, sizeof(T)) && aligned<V>(out, size_of(out_dtype)) && aligned<V>(carry, 4);
    for (int k = 0; k < count; ++k) yes = yes && aligned<V>(all[k].tuned, sizeof(T));
    return yes;
  }
};

}  // namespace

// More models than one launch takes run in several, which hand the sum on in fp32: the bits stay the same. It
// needs memory of its own, because `out` may be of lower precision, or the base.
void superpose(const void* base, const std::vector<Model>& models, void* out, Dtype dtype, Dtype out_dtype,
               Axis axis, Transform transform, Stream stream) {
  const int64_t block = default_block(axis.n);
  const Task task{"superpose", axis, transform, block, orthonormal(block)};
  const int all = int(models.size());
  const size_t bytes = size_t(task.numel()) * sizeof(float);
  const Scratch sum("superpose", all > kModels ? bytes : 0, stream);
  with_type(dtype, [&](auto type) {
    using T = decltype(type);
    for (int k = 0; k < all; k += kModels) {
      Superpose<T> op{};
      op.base = static_cast<const T*>(base);
      op.count = all - k < kModels ? all - k : kModels;
      for (int i = 0; i < op.count; ++i) op.all[i] = models[k + i];
      const bool last = k + op.count == all;
      op.carry = k == 0 ? nullptr : sum.as<float>();
      op.out = last ? out : sum.as<float>();
      op.out_dtype = last ? out_dtype : Dtype::f32;
      run(task, op, stream);
    }
  });
}

}  // namespace PYDELTA_NAMESPACE
