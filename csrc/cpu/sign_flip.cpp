#include "walk/walk.h"

namespace PYDELTA_NAMESPACE {

void sign_flip(const void* x, void* out, int dtype, Axis axis, Key key, int threads) {
  visit(dtype, [&](auto t) {
    using T = decltype(t);
    using C = compute_t<T>;
    constexpr Order order = order_of<T>;
    const Rotation r(key, axis, Transform::sign, 1, false, Order::halves, Order::halves);
    const SignView signs = r.inner.view();
    const T* const in = static_cast<const T*>(x);
    T* const to = static_cast<T*>(out);
    const bool around = writes_around(to, axis, x);
    for_elements<C>(axis, 2 * sizeof(T), threads, [=](auto tile) {
      const SignView minus = tile.signs(signs);
      tile.pairs([=](int64_t, Spot spot) PYDELTA_INLINE {
        const Pair<C> v = load2_upto<order>(in + spot.offset, spot.left, tile.minus(minus, spot));
        store2_upto<order>(to + spot.offset, v, spot.left, around);
      });
      if (around) write_fence();
    });
  });
}

}  // namespace PYDELTA_NAMESPACE
