#include "codes.cuh"
#include "retrieve.cuh"

namespace PYDELTA_NAMESPACE {

void retrieve_codes(const void* base, const Codes& q, void* out, Dtype dtype, Dtype out_dtype, Key key,
                    float lam, Transform transform, Stream stream) {
  const CodedRows codes(q);
  const Task task = retrieval("retrieve", {q.rows, q.n, 1}, transform);
  with_type(dtype, [&](auto type) {
    using B = decltype(type);
    const auto* b = static_cast<const B*>(base);
    with_codes(q.bits, [&](auto coded) {
      run(task, Retrieve<decltype(coded), CodedRows, B>{codes, b, out, out_dtype, key, lam}, stream);
    });
  });
}

}  // namespace PYDELTA_NAMESPACE
