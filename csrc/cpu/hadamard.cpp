#include "walk/unary.h"

namespace PYDELTA_NAMESPACE {

void hadamard(const void* x, void* out, int dtype, int64_t numel, int64_t block, double scale, int threads) {
  visit(dtype, [&](auto t) {
    using T = decltype(t);
    unary(static_cast<const T*>(x), static_cast<T*>(out), Axis{1, numel, 1}, block, NoSigns(), NoSigns(),
          compute_t<T>(scale), threads);
  });
}

}  // namespace PYDELTA_NAMESPACE
