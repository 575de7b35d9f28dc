#include "unary.h"

#include "large.h"

namespace PYDELTA_NAMESPACE {

template <class T>
void unary(const T* x, T* out, Axis axis, int64_t block, const Signs& inner, const Signs& outer,
           compute_t<T> scale, int threads) {
  using C = compute_t<T>;
  constexpr Order order = order_of<T>;
  if (block > kMaxTileBlock) return unary_large(x, out, axis, block, inner, outer, scale, threads);
  const SignView before = inner.view(), after = outer.view();
  const bool around = writes_around(out, axis, x);
  for_last_axis<C>(axis, block, 2 * sizeof(T), threads, [=](auto tile) {
    using TileType = decltype(tile);
    C* const work = scratch<C>(tile.room());
    transform<order>(tile, block, work, SignedSource<T, order, TileType>{x, before},
                     UnarySink<T, order, TileType, false>{out, tile, scale, after, around});
    if (around) write_fence();
  });
}

#define PYDELTA_UNARY(T)                                                                                    \
  template void unary(const T* x, T* out, Axis axis, int64_t block, const Signs& inner, const Signs& outer, \
                      compute_t<T> scale, int threads);
PYDELTA_UNARY(float)
PYDELTA_UNARY(bf16)
PYDELTA_UNARY(f16)
PYDELTA_UNARY(double)
#undef PYDELTA_UNARY

}  // namespace PYDELTA_NAMESPACE
