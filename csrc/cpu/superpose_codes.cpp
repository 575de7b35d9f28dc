#include "codes/levels.h"
#include "walk/row_blocks.h"

namespace PYDELTA_NAMESPACE {

void quantize(const void* x, int dtype, const Codes& codes, int threads);

void superpose_codes(const Superposed& models, const Codes& codes, int threads) {
  const int dtype = int(static_cast<Dtype>(models.dtype) == Dtype::f64 ? Dtype::f64 : Dtype::f32);
  superpose_blocks(models, codes.rows, codes.n, threads, [&](int64_t first, int64_t count, void* sum) {
    quantize(sum, dtype, rows_of(codes, first, count), 1);
  });
}

}  // namespace PYDELTA_NAMESPACE
