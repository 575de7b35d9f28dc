// y = outer * scale * H (inner * x): hadamard and rotate are this without and with signs.
#pragma once
#include "large.h"

namespace PYDELTA_NAMESPACE {

// Views: SignView in the order of memory, or NoSigns.
template <class T, class View>
void unary(const T* x, T* out, Axis axis, int64_t block, View inner, View outer, compute_t<T> scale,
           int threads) {
  using C = compute_t<T>;
  constexpr Order order = order_of<T>;
  if (block > kMaxTileBlock) return unary_large(x, out, axis, block, inner, outer, scale, threads);
  const bool around = writes_around(out, axis, x);
  for_last_axis<C>(axis, block, 2 * sizeof(T), threads, [=](auto tile) {
    using TileType = decltype(tile);
    C* const work = scratch<C>(tile.room());
    transform<order>(
        tile, block, work, SignedSource<T, order, TileType, View>{x, tile.signs(inner)},
        UnarySink<T, order, TileType, View, false>{out, tile, broadcast(scale), tile.signs(outer), around});
    if (around) write_fence();
  });
}

}  // namespace PYDELTA_NAMESPACE
