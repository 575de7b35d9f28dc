#include "kernels.h"

#include "../core/types.h"

namespace PYDELTA_NAMESPACE {

using pydelta_cpu::Axis;

void hadamard(const void*, void*, int, int64_t, int64_t, double, int);
void sign_flip(const void*, void*, int, Axis, uint64_t, uint64_t, int);
void rotate(const void*, void*, int, int64_t, int64_t, int64_t, bool, uint64_t, uint64_t, int);
void superpose(const void*, const void* const*, int, void*, int, int, Axis, const uint64_t*, const uint64_t*,
               const double*, int, int);
void retrieve(const void*, const void*, void*, int, int, int, Axis, uint64_t, uint64_t, double, int, int);
void merge_into(const pydelta_cpu::Merge&, int);
void mask_rescale(const void*, const void*, void*, int, int64_t, int64_t, const pydelta_cpu::Mask&, int);
void magnitude_threshold(const pydelta_cpu::Threshold&, int);

const pydelta_cpu::Kernels& kernels() {
  static const pydelta_cpu::Kernels table{hadamard, sign_flip,  rotate,       superpose,
                                          retrieve, merge_into, mask_rescale, magnitude_threshold};
  return table;
}

}  // namespace PYDELTA_NAMESPACE
