#include "kernels.h"

namespace PYDELTA_NAMESPACE {

// A merge of one model onto nothing.
void mask_rescale(const void* delta, const void* base, void* out, int dtype, int64_t numel, int64_t n,
                  const Mask& mask, int threads) {
  const double weight = 1;
  merge_into({base, nullptr, &delta, &mask, &weight, 1, out, dtype, dtype, numel, n, 0, 0, 1.0, false},
             threads);
}

}  // namespace PYDELTA_NAMESPACE
