#include <cmath>
#include <memory>

#include "walk.h"

namespace PYDELTA_NAMESPACE {

namespace {

template <class T>
struct Model {
  const T* tuned;
  compute_t<T> weight;
  SignView inner, outer;
};

template <class T>
struct Models {
  const T* base;
  const Model<T>* model;
  int count;
};

// Where transform() reads a model from: w (tuned - base), with signs.
template <class T, Order order, class TileType, class C = compute_t<T>>
struct DeltaSource {
  const T* base;
  const T* x;  // the tuned model
  Vec<C> weight;
  SignView signs;
  PYDELTA_INLINE Vec<C> one(Spot spot) const {
    const Vec<C> delta = load_upto(x + spot.offset, spot.left) - load_upto(base + spot.offset, spot.left);
    return flip<C>(delta * weight, TileType::minus(signs, spot));
  }
  PYDELTA_INLINE Pair<C> pair(Spot spot) const {
    const Pair<C> t = load2_upto<order>(x + spot.offset, spot.left);
    const Pair<C> b = load2_upto<order>(base + spot.offset, spot.left);
    return flip<C>(Pair<C>{(t.a - b.a) * weight, (t.b - b.b) * weight}, TileType::minus(signs, spot));
  }
};

template <class T, class O, class C = compute_t<T>>
void sum_signed(const Models<T>& models, O* out, Axis axis, int64_t bytes, int threads) {
  constexpr Order order = order_of<T, O>;
  const bool around = writes_around(out, axis, models.base);
  for_elements<C>(axis, bytes, threads, [&](auto tile) {
    const Model<T>* const first = models.model;
    const Model<T>* const end = first + models.count;
    const T* const origin = models.base;
    tile.pairs([=](int64_t, Spot spot) PYDELTA_INLINE {
      const Pair<C> base = load2_upto<order>(origin + spot.offset, spot.left);
      Pair<C> sum{};
      for (const Model<T>* m = first; m != end; ++m) {
        const Pair<C> theta = load2_upto<order>(m->tuned + spot.offset, spot.left);
        const Vec<C> weight = broadcast(m->weight);
        const Pair<C> delta{(theta.a - base.a) * weight, (theta.b - base.b) * weight};
        const Pair<C> term = flip<C>(delta, tile.minus(tile.signs(m->inner), spot));
        sum = {sum.a + term.a, sum.b + term.b};
      }
      store2_upto<order>(out + spot.offset, sum, spot.left, around);
    });
    if (around) write_fence();
  });
}

template <class T, class O, class C = compute_t<T>>
void sum_rotated(const Models<T>& models, O* out, Axis axis, int64_t block, int64_t bytes, int threads) {
  constexpr Order order = order_of<T>;
  const bool around = writes_around(out, axis, models.base);
  const C scale = C(1 / std::sqrt(double(block)));
  for_blocks<C>(axis, block, bytes, threads, [&](auto tile) {
    C* const sum = scratch<C>(2 * tile.room());
    C* const work = sum + tile.room();
    for (int k = 0; k < models.count; ++k) {
      const Model<T>& m = models.model[k];
      using Source = DeltaSource<T, order, decltype(tile)>;
      const Source source{models.base, m.tuned, broadcast(m.weight), tile.signs(m.inner)};
      transform<order>(tile, block, work, source, WorkSink<C>{work});
      const SignView outer = tile.signs(m.outer);
      tile.pairs([=](int64_t i, Spot spot) PYDELTA_INLINE {
        const Pair<C> y = scaled_pair(work + i * kLanes<C>, scale, tile.minus(outer, spot));
        C* const s = sum + i * kLanes<C>;
        const Vec<C> zero{};
        write(s, (k ? load(s) : zero) + y.a, false);
        write(s + kLanes<C>, (k ? load(s + kLanes<C>) : zero) + y.b, false);
      });
    }
    tile.pairs([=](int64_t i, Spot spot) PYDELTA_INLINE {
      const C* const s = sum + i * kLanes<C>;
      store2_upto<order>(out + spot.offset, Pair<C>{load(s), load(s + kLanes<C>)}, spot.left, around);
    });
    if (around) write_fence();
  });
}

}  // namespace

void superpose(const void* base, const void* const* tuned, int models, void* out, int dtype, int out_dtype,
               Axis axis, const uint64_t* seeds, const uint64_t* streams, const double* weights,
               int transform, int threads) {
  const auto kind = static_cast<Transform>(transform);
  if (kind == Transform::none) axis = {1, axis.outer * axis.n * axis.inner, 1};
  const int64_t block = kind == Transform::hadamard ? default_block(axis.n) : 1;
  visit(dtype, [&](auto t) {
    visit_of<compute_t<decltype(t)>>(out_dtype, [&](auto o) {
      using T = decltype(t);
      using O = decltype(o);
      const std::unique_ptr<Rotation[]> rotations(new Rotation[size_t(models)]);
      const std::unique_ptr<Model<T>[]> each(new Model<T>[size_t(models)]);
      const Order order = kind == Transform::hadamard ? order_of<T> : order_of<T, O>;
      for (int k = 0; k < models; ++k) {
        Rotation& r = rotations[size_t(k)];
        r = Rotation({seeds[k], streams[k]}, axis, kind, block, false, order, order);
        each[size_t(k)] = {static_cast<const T*>(tuned[k]), compute_t<T>(weights[k]), r.inner.view(),
                           r.outer.view()};
      }
      const Models<T> all{static_cast<const T*>(base), each.get(), models};
      const int64_t bytes = (models + 1) * int64_t(sizeof(T)) + int64_t(sizeof(O));
      O* const to = static_cast<O*>(out);
      if (kind == Transform::hadamard) return sum_rotated(all, to, axis, block, bytes, threads);
      sum_signed(all, to, axis, bytes, threads);
    });
  });
}

}  // namespace PYDELTA_NAMESPACE
