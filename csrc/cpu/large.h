// Blocks that no cache holds, in two walks over memory: H of size inner * outer is H_inner on consecutive
// pieces, then H_outer across them.
#pragma once
#include "walk.h"

namespace PYDELTA_NAMESPACE {

constexpr int64_t kInnerBlock = 32768;

// Where the second walk reads from: what the first one left, vectors as they came.
template <class C>
struct PlainSource {
  const C* x;
  PYDELTA_INLINE Vec<C> one(Spot spot) const { return load(x + spot.offset); }
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

// Memory for one block in C: the output itself where it has that type.
template <class T, class C>
struct Workspace {
  C* data;
  bool owned;
  Workspace(T* out, int64_t elements) : owned(sizeof(T) != sizeof(C)) {
    data = owned ? static_cast<C*>(std::malloc(size_t(elements) * sizeof(C))) : reinterpret_cast<C*>(out);
    if (data == nullptr) throw std::bad_alloc();
  }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  ~Workspace() {
    if (owned) std::free(data);
  }
};

template <class T>
void unary_large(const T* x, T* out, Axis axis, int64_t block, const Signs& inner, const Signs& outer,
                 compute_t<T> scale, int threads) {
  using C = compute_t<T>;
  constexpr Order order = order_of<T>;
  const int64_t pieces = block / kInnerBlock, total = axis.outer * axis.n, bytes = sizeof(T) + sizeof(C);
  for (int64_t start = 0; start < total; start += block) {
    const Workspace<T, C> space(out + start, block);
    C* const data = space.data;
    const SignView before = inner.view().skip(start % axis.n), after = outer.view().skip(start % axis.n);
    for_rows<C, Layout::rows>(1, block, kInnerBlock, block, bytes, threads, [=](auto tile) {
      using TileType = decltype(tile);
      C* const work = scratch<C>(tile.room());
      transform<order>(tile, kInnerBlock, work, SignedSource<T, order, TileType>{x + start, before},
                       PlainSink<C, TileType>{data, tile});
    });
    // Across the pieces every lane keeps to itself, so signs go by its flat place in the block.
    for_columns<C>(Axis{1, pieces, kInnerBlock}, pieces, bytes, threads, [=](auto tile) {
      C* const work = scratch<C>(tile.room());
      transform<Order::halves>(tile, pieces, work, PlainSource<C>{data}, WorkSink<C>{work});
      tile.pairs([=](int64_t i, Spot spot) PYDELTA_INLINE {
        const Pair<C> y = scaled_pair(work + i * kLanes<C>, scale, after.from(spot.offset));
        store2<order>(out + start + spot.offset, y, false);
      });
    });
  }
}

}  // namespace PYDELTA_NAMESPACE
