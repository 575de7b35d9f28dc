// Blocks that no cache holds, in two walks over memory: H of size inner * outer is H_inner on consecutive
// pieces, then H_outer across them.
#pragma once
#include "walk.h"

namespace PYDELTA_NAMESPACE {

constexpr int64_t kInnerBlock = 32768;

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
  const SignView before = inner.view(), after = outer.view();
  const int64_t pieces = block / kInnerBlock, total = axis.outer * axis.n;
  for (int64_t start = 0; start < total; start += block) {
    const Workspace<T, C> space(out + start, block);
    const int64_t first = start % axis.n;
    C* const data = space.data;
    for_blocks<C>(Axis{1, block, 1}, kInnerBlock, sizeof(T) + sizeof(C), threads, [&](auto tile) {
      C* const work = scratch<C>(tile.room());
      transform(tile, kInnerBlock, work, [=](Spot spot) PYDELTA_INLINE {
        return flip<C>(load_upto(x + start + spot.offset, spot.left), before.from(first + spot.j));
      });
      tile.pairs([=](int64_t i, Spot spot) PYDELTA_INLINE {
        const C* const w = work + i * kLanes<C>;
        store2<C, C>(data + spot.offset, load(w), load(w + kLanes<C>), false);
      });
    });
    // Across the pieces every vector keeps to itself, so signs go by its flat place in the block.
    for_blocks<C>(Axis{1, pieces, kInnerBlock}, pieces, sizeof(T) + sizeof(C), threads, [&](auto tile) {
      C* const work = scratch<C>(tile.room());
      transform(tile, pieces, work, [=](Spot spot) PYDELTA_INLINE { return load(data + spot.offset); });
      tile.pairs([=](int64_t i, Spot spot) PYDELTA_INLINE {
        const auto pair = scaled_pair(work + i * kLanes<C>, scale, after.from(first + spot.offset));
        store2<T, C>(out + start + spot.offset, pair.a, pair.b, false);
      });
    });
  }
}

}  // namespace PYDELTA_NAMESPACE
