#include <cmath>
#include <memory>

#include "walk/row_blocks.h"

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
  int64_t start;  // of what is read: an element of base and tuned
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
    const int64_t start = models.start;
    tile.pairs([=](int64_t, Spot spot) PYDELTA_INLINE {
      const Pair<C> base = load2_upto<order>(origin + start + spot.offset, spot.left);
      Pair<C> sum{};
      for (const Model<T>* m = first; m != end; ++m) {
        const Pair<C> theta = load2_upto<order>(m->tuned + start + spot.offset, spot.left);
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
      const Source source{models.base + models.start, m.tuned + models.start, broadcast(m.weight),
                          tile.signs(m.inner)};
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

// The models with their signs, ready to be summed into tensors of O.
template <class T, class O>
class Sum {
 public:
  Sum(const Superposed& all, Axis axis)
      : hadamard_(static_cast<Transform>(all.transform) == Transform::hadamard),
        block_(hadamard_ ? default_block(axis.n) : 1),
        base_(static_cast<const T*>(all.base)),
        count_(all.models),
        rotations_(new Rotation[size_t(all.models)]),
        models_(new Model<T>[size_t(all.models)]) {
    const Order order = hadamard_ ? order_of<T> : order_of<T, O>;
    for (int k = 0; k < count_; ++k) {
      Rotation& r = rotations_[size_t(k)];
      const Key key{all.seeds[k], all.streams[k]};
      r = Rotation(key, axis, static_cast<Transform>(all.transform), block_, false, order, order);
      models_[size_t(k)] = {static_cast<const T*>(all.tuned[k]), compute_t<T>(all.weights[k]), r.inner.view(),
                            r.outer.view()};
    }
  }
  int64_t bytes() const { return (count_ + 1) * int64_t(sizeof(T)) + int64_t(sizeof(O)); }
  // The sum of what begins at the element `start` and is as large as `axis`.
  void into(O* out, int64_t start, Axis axis, int threads) const {
    const Models<T> all{base_, models_.get(), count_, start};
    if (hadamard_) return sum_rotated(all, out, axis, block_, bytes(), threads);
    sum_signed(all, out, axis, bytes(), threads);
  }

 private:
  bool hadamard_;
  int64_t block_;
  const T* base_;
  int count_;
  std::unique_ptr<Rotation[]> rotations_;
  std::unique_ptr<Model<T>[]> models_;
};

}  // namespace

void superpose(const Superposed& models, void* out, int out_dtype, Axis axis, int threads) {
  if (static_cast<Transform>(models.transform) == Transform::none) {
    axis = {1, axis.outer * axis.n * axis.inner, 1};
  }
  visit(models.dtype, [&](auto t) {
    visit_of<compute_t<decltype(t)>>(out_dtype, [&](auto o) {
      using O = decltype(o);
      Sum<decltype(t), O>(models, axis).into(static_cast<O*>(out), 0, axis, threads);
    });
  });
}

void superpose_blocks(const Superposed& models, int64_t rows, int64_t n, int threads, const RowBlock& use) {
  visit(models.dtype, [&](auto t) {
    using C = compute_t<decltype(t)>;
    const Sum<decltype(t), C> sum(models, {rows, n, 1});
    for_row_blocks<C>(rows, n, sum.bytes(), threads, [&](int64_t first, int64_t count, C* superposed) {
      sum.into(superposed, first * n, {count, n, 1}, 1);
      use(first, count, superposed);
    });
  });
}

}  // namespace PYDELTA_NAMESPACE
