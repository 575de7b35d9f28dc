#include "unary.h"

#include "large.h"

namespace PYDELTA_NAMESPACE {

template <class T>
void unary(const T* x, T* out, Axis axis, int64_t block, const Signs& inner, const Signs& outer,
           compute_t<T> scale, int threads) {
  using C = compute_t<T>;
  if (block > kMaxTileBlock) return unary_large(x, out, axis, block, inner, outer, scale, threads);
  const SignView before = inner.view(), after = outer.view();
  const bool around = writes_around(out, axis, x);
  for_blocks<C>(axis, block, 2 * sizeof(T), threads, [&](auto tile) {
    C* const work = scratch<C>(tile.room());
    transform(tile, block, work, SignedSource<T, decltype(tile)>{x, before});
    tile.pairs([=](int64_t i, Spot spot) PYDELTA_INLINE {
      const auto pair = scaled_pair(work + i * kLanes<C>, scale, tile.minus(after, spot));
      store2_upto(out + spot.offset, pair.a, pair.b, spot.left, around);
    });
    if (around) write_fence();
  });
}

#define PYDELTA_UNARY(T)                                                                               \
  template void unary(const T* x, T* out, Axis axis, int64_t block, const Signs& inner, const Signs& outer, \
                      compute_t<T> scale, int threads);
PYDELTA_UNARY(float)
PYDELTA_UNARY(bf16)
PYDELTA_UNARY(f16)
PYDELTA_UNARY(double)
#undef PYDELTA_UNARY

}  // namespace PYDELTA_NAMESPACE
