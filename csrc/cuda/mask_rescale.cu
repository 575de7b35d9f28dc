#include "merge_into.cuh"

namespace PYDELTA_NAMESPACE {

// One model of weight 1, onto zeros.
void mask_rescale(const void* delta, const void* base, void* out, Dtype dtype, int64_t numel, int64_t n,
                  const Mask& mask, Stream stream) {
  const Merging alone{Election::sum, 1, false, false};
  merge_masked("mask_rescale", base, {{delta, mask, 1}}, dtype, {out, dtype, numel, n, 0}, alone, stream);
}

}  // namespace PYDELTA_NAMESPACE
