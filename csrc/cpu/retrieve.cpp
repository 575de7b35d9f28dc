#include "walk/row_blocks.h"

namespace PYDELTA_NAMESPACE {

namespace {

// base + lam * delta: the product, the sum and the result are rounded one by one.
template <Order order, class T, class O, class C>
PYDELTA_INLINE inline void emit(const T* base, O* out, Spot spot, Pair<C> delta, Vec<C> lam, bool around) {
  const Pair<C> b = load2_upto<order>(base + spot.offset, spot.left);
  store2_upto<order>(out + spot.offset, Pair<C>{b.a + delta.a * lam, b.b + delta.b * lam}, spot.left, around);
}

template <class T, class S, class O, class C = compute_t<T>>
void retrieve_signed(const T* base, const S* superposed, O* out, Axis axis, const Rotation& r, C lam,
                     bool around, int threads) {
  constexpr Order order = order_of<T, S, O>;
  const SignView signs = r.inner.view();
  for_elements<C>(axis, sizeof(T) + sizeof(S) + sizeof(O), threads, [=](auto tile) {
    const Vec<C> factor = broadcast(lam);
    const SignView minus = tile.signs(signs);
    tile.pairs([=](int64_t, Spot spot) PYDELTA_INLINE {
      const Pair<C> s = load2_upto<order>(superposed + spot.offset, spot.left, tile.minus(minus, spot));
      emit<order>(base, out, spot, s, factor, around);
    });
    if (around) write_fence();
  });
}

template <class T, class S, class O, class C = compute_t<T>>
void retrieve_rotated(const T* base, const S* superposed, O* out, Axis axis, int64_t block, const Rotation& r,
                      C lam, bool around, int threads) {
  constexpr Order order = order_of<S>;
  const SignView inner = r.inner.view(), outer = r.outer.view();
  const C scale = C(r.scale);
  for_blocks<C>(axis, block, sizeof(T) + sizeof(S) + sizeof(O), threads, [=](auto tile) {
    const Vec<C> factor = broadcast(lam);
    C* const work = scratch<C>(tile.room());
    using Source = SignedSource<S, order, decltype(tile), SignView>;
    transform<order>(tile, block, work, Source{superposed, tile.signs(inner)}, WorkSink<C>{work});
    const SignView after = tile.signs(outer);
    tile.pairs([=](int64_t i, Spot spot) PYDELTA_INLINE {
      const Pair<C> delta = scaled_pair(work + i * kLanes<C>, scale, tile.minus(after, spot));
      emit<order>(base, out, spot, delta, factor, around);
    });
    if (around) write_fence();
  });
}

}  // namespace

void retrieve(const void* base, const void* superposed, void* out, int dtype, int superposed_dtype,
              int out_dtype, Axis axis, Key key, double lam, int transform, int threads) {
  const auto kind = static_cast<Transform>(transform);
  if (kind == Transform::none) axis = {1, axis.outer * axis.n * axis.inner, 1};
  const int64_t block = kind == Transform::hadamard ? default_block(axis.n) : 1;
  visit(dtype, [&](auto t) {
    using T = decltype(t);
    using C = compute_t<T>;
    visit_of<C>(superposed_dtype, [&](auto s) {
      visit_of<C>(out_dtype, [&](auto o) {
        using S = decltype(s);
        using O = decltype(o);
        const Rotation r(key, axis, kind, block, true, Order::halves, order_of<S>);
        const T* const from = static_cast<const T*>(base);
        const S* const sum = static_cast<const S*>(superposed);
        O* const to = static_cast<O*>(out);
        const bool around = writes_around(to, axis, base);
        if (kind == Transform::hadamard) {
          return retrieve_rotated(from, sum, to, axis, block, r, C(lam), around, threads);
        }
        retrieve_signed(from, sum, to, axis, r, C(lam), around, threads);
      });
    });
  });
}

void retrieve_blocks(const void* base, void* out, int dtype, int out_dtype, int64_t rows, int64_t n, Key key,
                     double lam, int threads, const RowBlock& fill) {
  const Axis all{rows, n, 1};
  const int64_t block = default_block(n);
  visit(dtype, [&](auto t) {
    using T = decltype(t);
    using C = compute_t<T>;
    visit_of<C>(out_dtype, [&](auto o) {
      using O = decltype(o);
      const Rotation r(key, all, Transform::hadamard, block, true, Order::halves, order_of<C>);
      const T* const from = static_cast<const T*>(base);
      O* const to = static_cast<O*>(out);
      const bool around = writes_around(to, all, base);
      for_row_blocks<C>(rows, n, sizeof(T) + sizeof(O), threads, [&](int64_t first, int64_t count, C* sum) {
        fill(first, count, sum);
        const Axis axis{count, n, 1};
        retrieve_rotated(from + first * n, sum, to + first * n, axis, block, r, C(lam), around, 1);
      });
    });
  });
}

}  // namespace PYDELTA_NAMESPACE
