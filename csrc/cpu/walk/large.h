// Blocks that no cache holds, in two walks over memory: H of size inner * outer is H_inner on consecutive
// pieces, then H_outer across them.
#pragma once
#include "walk.h"

namespace PYDELTA_NAMESPACE {

// A block that the third-level cache holds is cut into small pieces, a larger one into few: across them
// memory is walked in steps of a piece.
constexpr int64_t kCachedBytes = int64_t(1) << 23;
constexpr int64_t kSmallPiece = 16384, kLargePiece = kMaxTileBlock;
static_assert(kSmallPiece <= kMaxTileBlock && kLargePiece <= kMaxTileBlock, "a piece is one tile");

// Rounds what transform() gives into the output, scaled and signed. flat: vectors are whole, and signs go by
// the place in memory, not on the tile's axis.
template <class T, Order order, class TileType, class View, bool flat, class C = compute_t<T>>
struct UnarySink {
  T* out;
  TileType tile;
  Vec<C> scale;
  View signs;
  bool around;
  PYDELTA_INLINE auto minus(Spot spot) const {
    return flat ? signs.from(spot.offset) : TileType::minus(signs, spot);
  }
  PYDELTA_INLINE int64_t left(Spot spot) const { return flat ? 2 * kLanes<C> : spot.left; }
  PYDELTA_INLINE void operator()(int64_t i, Vec<C> v) const {
    const Spot spot = tile.spot(i);
    store_upto(out + spot.offset, flip<C>(v * scale, minus(spot)), left(spot), around);
  }
  PYDELTA_INLINE void operator()(int64_t i, Pair<C> v) const {
    const Spot spot = tile.spot(i);
    store2_upto<order>(out + spot.offset, Pair<C>{v.a * scale, v.b * scale}, left(spot), around, minus(spot));
  }
};

// Where the second walk reads from: what the first one left, vectors as they came.
template <class C>
struct PlainSource {
  const C* x;
  PYDELTA_INLINE Vec<C> one(Spot spot) const { return load(x + spot.offset); }
  PYDELTA_INLINE Pair<C> pair(Spot spot) const { return load2<Order::halves>(x + spot.offset); }
};

// Where the first walk writes to.
template <class C, class TileType>
struct PlainSink {
  C* out;
  TileType tile;
  PYDELTA_INLINE void operator()(int64_t i, Vec<C> v) const { write(out + tile.spot(i).offset, v, false); }
  PYDELTA_INLINE void operator()(int64_t i, Pair<C> v) const {
    (*this)(i, v.a);
    (*this)(i + 1, v.b);
  }
};

// Memory for one block in C; none where the output itself can hold it.
template <class C>
struct Workspace {
  C* data = nullptr;
  explicit Workspace(int64_t elements) {
    if (elements == 0) return;
    data = static_cast<C*>(std::malloc(size_t(elements) * sizeof(C)));
    if (data == nullptr) throw std::bad_alloc();
  }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  ~Workspace() { std::free(data); }
};

template <class T, class View>
void unary_large(const T* x, T* out, Axis axis, int64_t block, View inner, View outer, compute_t<T> scale,
                 int threads) {
  using C = compute_t<T>;
  constexpr Order order = order_of<T>;
  const bool cached = block * int64_t(sizeof(C)) <= kCachedBytes;
  const int64_t piece = cached ? kSmallPiece : kLargePiece, pieces = block / piece;
  const int64_t total = axis.outer * axis.n, bytes = sizeof(T) + sizeof(C);
  const Workspace<C> space(sizeof(T) == sizeof(C) ? 0 : block);
  for (int64_t start = 0; start < total; start += block) {
    C* const data = space.data ? space.data : reinterpret_cast<C*>(out + start);
    const View before = inner.skip(start % axis.n), after = outer.skip(start % axis.n);
    for_rows<C, Layout::rows>(1, block, piece, block, bytes, threads, [=](auto tile) {
      using TileType = decltype(tile);
      C* const work = scratch<C>(tile.room());
      transform<order>(tile, piece, work,
                       SignedSource<T, order, TileType, View>{x + start, tile.signs(before)},
                       PlainSink<C, TileType>{data, tile});
    });
    // Across the pieces every lane keeps to itself, so signs go by its flat place in the block.
    for_columns<C>(Axis{1, pieces, piece}, pieces, cached ? 4 : 5, bytes, threads, [=](auto tile) {
      C* const work = scratch<C>(tile.room());
      transform<order>(
          tile, pieces, work, PlainSource<C>{data},
          UnarySink<T, order, decltype(tile), View, true>{out + start, tile, broadcast(scale), after, false});
    });
  }
}

}  // namespace PYDELTA_NAMESPACE
