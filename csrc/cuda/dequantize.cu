#include "codes.cuh"

namespace PYDELTA_NAMESPACE {
namespace {

// What codes stand for, as elements of type O.
template <class Coded, class O>
struct Dequantize {
  using Source = Coded;
  using Base = O;
  static constexpr Use kBase = Use::never;
  static constexpr bool kSums = false;
  static constexpr Dtype out_dtype = kDtype<O>;

  CodedRows codes;
  void* out;

  __device__ static constexpr int models() { return 1; }
  __device__ const CodedRows& source(int) const { return codes; }
  __device__ static Key key(int) { return {}; }
  __device__ static float delta(float v, float, int) { return v; }
  __device__ static float result(float v, float) { return v; }

  template <int V>
  bool aligned_for() const {
    return aligned<V>(codes, 0) && aligned<V>(out, sizeof(O));
  }
};

}  // namespace

void dequantize(const Codes& q, void* out, Dtype out_dtype, Stream stream) {
  const Task task{"dequantize", {q.rows, q.n, 1}, Transform::none};
  with_type(out_dtype, [&](auto type) {
    with_codes(q.bits, [&](auto coded) {
      run_elements(task, Dequantize<decltype(coded), decltype(type)>{CodedRows(q), out}, stream);
    });
  });
}

}  // namespace PYDELTA_NAMESPACE
