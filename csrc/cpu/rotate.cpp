#include "walk/unary.h"

namespace PYDELTA_NAMESPACE {

void rotate(const void* x, void* out, int dtype, int64_t rows, int64_t n, int64_t block, bool inverse,
            Key key, int threads) {
  const Axis axis{rows, n, 1};
  visit(dtype, [&](auto t) {
    using T = decltype(t);
    const Rotation r(key, axis, Transform::hadamard, block, inverse, Order::halves, Order::halves);
    unary(static_cast<const T*>(x), static_cast<T*>(out), axis, block, r.inner.view(), r.outer.view(),
          compute_t<T>(r.scale), threads);
  });
}

}  // namespace PYDELTA_NAMESPACE
