#include "kernels.h"

#include "../core/types.h"

namespace PYDELTA_NAMESPACE {

using pydelta_cpu::Axis;
using pydelta_cpu::Codes;
using pydelta_cpu::Superposed;

void hadamard(const void*, void*, int, int64_t, int64_t, double, int);
void sign_flip(const void*, void*, int, Axis, uint64_t, uint64_t, int);
void rotate(const void*, void*, int, int64_t, int64_t, int64_t, bool, uint64_t, uint64_t, int);
void superpose(const Superposed&, void*, int, Axis, int);
void retrieve(const void*, const void*, void*, int, int, int, Axis, uint64_t, uint64_t, double, int, int);
void merge_into(const pydelta_cpu::Merge&, int);
void mask_rescale(const void*, const void*, void*, int, int64_t, int64_t, const pydelta_cpu::Mask&, int);
void magnitude_threshold(const pydelta_cpu::Threshold&, int);
void quantize(const void*, int, const Codes&, int);
void dequantize(const Codes&, void*, int, int);
void superpose_codes(const Superposed&, const Codes&, int);
void retrieve_codes(const void*, const Codes&, void*, int, int, uint64_t, uint64_t, double, int, int);
void few_rows(const pydelta_cpu::FewRows&, int);
void superposed_linear(const pydelta_cpu::Activations&, const Codes&, void*, int, int);
void vera_matrix(void*, int, int64_t, int64_t, uint64_t, uint64_t, uint64_t, int);
void square_sums(const pydelta_cpu::SquareSums&, int);
void sam_perturb_(const pydelta_cpu::Perturb&, int);
void sam_restore_(const pydelta_cpu::Restore&, int);
void adamr_step_(const pydelta_cpu::AdamR&, int);

const pydelta_cpu::Kernels& kernels() {
  static const pydelta_cpu::Kernels table{hadamard,    sign_flip,   rotate,           superpose,
                                          retrieve,    merge_into,  mask_rescale,     magnitude_threshold,
                                          quantize,    dequantize,  superpose_codes,  retrieve_codes,
                                          vera_matrix, square_sums, sam_perturb_,     sam_restore_,
                                          adamr_step_, few_rows,    superposed_linear};
  return table;
}

}  // namespace PYDELTA_NAMESPACE
