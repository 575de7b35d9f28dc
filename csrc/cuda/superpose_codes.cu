#include "scratch.cuh"

namespace PYDELTA_NAMESPACE {

// Rows are superposed in fp32 into scratch memory that a quarter of the second-level cache holds, and coded
// from there, block after block: the whole superposition is nowhere in memory.
void superpose_codes(const void* base, std::vector<Model> models, Dtype dtype, const Codes& all,
                     Transform transform, Stream stream) {
  constexpr const char* kOp = "superpose";
  if (all.rows * all.n == 0) return;
  const int64_t room = attribute(kOp, cudaDevAttrL2CacheSize) / 4 / (all.n * int64_t(sizeof(float)));
  const int64_t together = min(max(room, int64_t(1)), all.rows), row_bytes = (all.n * all.bits + 7) / 8;
  const size_t stride = size_t(all.n) * size_of(dtype);
  const Scratch sum(kOp, size_t(together * all.n) * sizeof(float), stream);
  const auto* from = static_cast<const char*>(base);
  Codes some = all;
  for (int64_t first = 0; first < all.rows; first += together) {
    some.rows = min(together, all.rows - first);
    superpose(from, models, sum.as<void>(), dtype, Dtype::f32, {some.rows, all.n, 1}, transform, stream);
    quantize(sum.as<void>(), Dtype::f32, some, stream);
    some.codes += some.rows * row_bytes;
    some.scales += some.rows * (all.n / all.group);
    from += some.rows * stride;
    for (Model& model : models) model.tuned = static_cast<const char*>(model.tuned) + some.rows * stride;
  }
}

}  // namespace PYDELTA_NAMESPACE
