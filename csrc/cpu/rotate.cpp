#include "unary.h"

namespace PYDELTA_NAMESPACE {

void rotate(const void* x, void* out, int dtype, int64_t rows, int64_t n, int64_t block, bool inverse,
            uint64_t seed, uint64_t stream, int threads) {
  const Rotation r({seed, stream}, Axis{rows, n, 1}, Transform::hadamard, block, inverse);
  visit(dtype, [&](auto t) {
    using T = decltype(t);
    unary(static_cast<const T*>(x), static_cast<T*>(out), Axis{rows, n, 1}, block, r.inner, r.outer,
          compute_t<T>(r.scale), threads);
  });
}

}  // namespace PYDELTA_NAMESPACE
