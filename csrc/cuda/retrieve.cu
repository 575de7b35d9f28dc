#include "launch.cuh"

namespace PYDELTA_NAMESPACE {
namespace {

// base + lam * y, where y is the superposition transformed back.
template <class S, class B>
struct Retrieve {
  using Source = S;
  using Base = B;
  static constexpr Use kBase = Use::result;
  static constexpr bool kSums = false;

  const S* superposed;
  const B* base;
  void* out;
  Dtype out_dtype;
  Key only;
  float lam;

  __device__ static constexpr int models() { return 1; }
  __device__ const S* source(int) const { return superposed; }
  __device__ Key key(int) const { return only; }
  __device__ static float delta(float s, float, int) { return s; }
  __device__ float result(float y, float b) const { return __fadd_rn(b, __fmul_rn(y, lam)); }

  template <int V>
  bool aligned_for() const {
    return aligned<V>(superposed, sizeof(S)) && aligned<V>(base, sizeof(B)) &&
           aligned<V>(out, size_of(out_dtype));
  }
};

}  // namespace

void retrieve(const void* base, const void* superposed, void* out, Dtype dtype, Dtype superposed_dtype,
              Dtype out_dtype, Shape shape, Key key, float lam, Transform transform, Stream stream) {
  const int64_t block = default_block(shape.n);
  Task task{"retrieve", shape, transform, block, orthonormal(block)};
  task.inverse = true;
  with_type(superposed_dtype, [&](auto source) {
    with_type(dtype, [&](auto type) {
      using S = decltype(source);
      using B = decltype(type);
      const auto* s = static_cast<const S*>(superposed);
      run(task, Retrieve<S, B>{s, static_cast<const B*>(base), out, out_dtype, key, lam}, stream);
    });
  });
}

}  // namespace PYDELTA_NAMESPACE
