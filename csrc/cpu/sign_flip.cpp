#include "walk.h"

namespace PYDELTA_NAMESPACE {

void sign_flip(const void* x, void* out, int dtype, Axis axis, uint64_t seed, uint64_t stream, int threads) {
  const Signs signs({seed, stream}, 0, axis.n, rows_per_tile(axis));
  const SignView view = signs.view();
  visit(dtype, [&](auto t) {
    using T = decltype(t);
    using C = compute_t<T>;
    const T* const in = static_cast<const T*>(x);
    T* const to = static_cast<T*>(out);
    const bool around = writes_around(to, axis, x);
    for_elements<C>(axis, 2 * sizeof(T), threads, [&](auto tile) {
      tile.pairs([=](int64_t, Spot spot) PYDELTA_INLINE {
        const uint32_t minus = tile.minus(view, spot);
        const Pair<C> v = load2_upto(in + spot.offset, spot.left);
        store2_upto(to + spot.offset, flip<C>(v.a, minus), flip<C>(v.b, minus >> kLanes<C>), spot.left, around);
      });
      if (around) write_fence();
    });
  });
}

}  // namespace PYDELTA_NAMESPACE
