#include "retrieve.cuh"

namespace PYDELTA_NAMESPACE {

void retrieve(const void* base, const void* superposed, void* out, Dtype dtype, Dtype superposed_dtype,
              Dtype out_dtype, Axis axis, Key key, float lam, Transform transform, Stream stream) {
  const Task task = retrieval("retrieve", axis, transform);
  with_type(superposed_dtype, [&](auto source) {
    with_type(dtype, [&](auto type) {
      using S = decltype(source);
      using B = decltype(type);
      const auto* s = static_cast<const S*>(superposed);
      const auto* b = static_cast<const B*>(base);
      run(task, Retrieve<S, const S*, B>{s, b, out, out_dtype, key, lam}, stream);
    });
  });
}

}  // namespace PYDELTA_NAMESPACE
