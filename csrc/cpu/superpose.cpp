#include <memory>

#include "walk.h"

namespace PYDELTA_NAMESPACE {

namespace {

template <class T>
struct Models {
  const T* base;
  const T* const* tuned;
  int count;
  const Rotation* rotations;
  const double* weights;
};

// Where transform() reads a model from: w (tuned - base), with signs.
template <class T, class TileType, class C = compute_t<T>>
struct DeltaSource {
  const T* base;
  const T* tuned;
  Vec<C> weight;
  SignView signs;
  PYDELTA_INLINE Vec<C> operator()(Spot spot) const {
    prefetch(base + spot.offset + kTile);
    prefetch(tuned + spot.offset + kTile);
    const Vec<C> theta = load_upto(tuned + spot.offset, spot.left);
    const Vec<C> delta = theta - load_upto(base + spot.offset, spot.left);
    return flip<C>(delta * weight, TileType::minus(signs, spot));
  }
};

template <class T, class O, class C = compute_t<T>>
void sum_signed(const Models<T>& models, O* out, Axis axis, int64_t bytes, int threads) {
  const bool around = writes_around(out, axis, models.base);
  for_elements<C>(axis, bytes, threads, [&](auto tile) {
    tile.pairs([&](int64_t, Spot spot) {
      const Pair<C> base = load2_upto(models.base + spot.offset, spot.left);
      Pair<C> sum{};
      for (int k = 0; k < models.count; ++k) {
        const uint32_t minus = tile.minus(models.rotations[k].inner.view(), spot);
        const Pair<C> theta = load2_upto(models.tuned[k] + spot.offset, spot.left);
        const Vec<C> weight = broadcast(C(models.weights[k]));
        sum.a = sum.a + flip<C>((theta.a - base.a) * weight, minus);
        sum.b = sum.b + flip<C>((theta.b - base.b) * weight, minus >> kLanes<C>);
      }
      store2_upto(out + spot.offset, sum.a, sum.b, spot.left, around);
    });
    if (around) write_fence();
  });
}

template <class T, class O, class C = compute_t<T>>
void sum_rotated(const Models<T>& models, O* out, Axis axis, int64_t block, int64_t bytes, int threads) {
  const bool around = writes_around(out, axis, models.base);
  const C scale = C(models.rotations[0].scale);
  for_blocks<C>(axis, block, bytes, threads, [&](auto tile) {
    C* const sum = scratch<C>(2 * tile.room());
    C* const work = sum + tile.room();
    for (int k = 0; k < models.count; ++k) {
      const Rotation& r = models.rotations[k];
      const SignView outer = r.outer.view();
      const Vec<C> weight = broadcast(C(models.weights[k]));
      transform(tile, block, work, DeltaSource<T, decltype(tile)>{models.base, models.tuned[k], weight, r.inner.view()});
      tile.pairs([=](int64_t i, Spot spot) PYDELTA_INLINE {
        const Pair<C> y = scaled_pair(work + i * kLanes<C>, scale, tile.minus(outer, spot));
        C* const s = sum + i * kLanes<C>;
        const Vec<C> zero{};
        store2<C, C>(s, (k ? load(s) : zero) + y.a, (k ? load(s + kLanes<C>) : zero) + y.b, false);
      });
    }
    tile.pairs([=](int64_t i, Spot spot) PYDELTA_INLINE {
      const C* const s = sum + i * kLanes<C>;
      store2_upto(out + spot.offset, load(s), load(s + kLanes<C>), spot.left, around);
    });
    if (around) write_fence();
  });
}

}  // namespace

void superpose(const void* base, const void* const* tuned, int models, void* out, int dtype, int out_dtype,
               Axis axis, const uint64_t* seeds, const uint64_t* streams, const double* weights, int transform,
               int threads) {
  const auto kind = static_cast<Transform>(transform);
  if (kind == Transform::none) axis = {1, axis.outer * axis.n * axis.inner, 1};
  const int64_t block = kind == Transform::hadamard ? default_block(axis.n) : 1;
  const std::unique_ptr<Rotation[]> rotations(new Rotation[size_t(models)]);
  for (int k = 0; k < models; ++k) {
    rotations[size_t(k)] = Rotation({seeds[k], streams[k]}, axis, kind, block, false);
  }
  visit(dtype, [&](auto t) {
    using T = decltype(t);
    const Models<T> all{static_cast<const T*>(base), reinterpret_cast<const T* const*>(tuned), models,
                        rotations.get(), weights};
    visit_of<compute_t<T>>(out_dtype, [&](auto o) {
      using O = decltype(o);
      const int64_t bytes = (models + 1) * int64_t(sizeof(T)) + int64_t(sizeof(O));
      O* const to = static_cast<O*>(out);
      if (kind == Transform::hadamard) return sum_rotated(all, to, axis, block, bytes, threads);
      sum_signed(all, to, axis, bytes, threads);
    });
  });
}

}  // namespace PYDELTA_NAMESPACE
