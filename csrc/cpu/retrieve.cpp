#include "walk.h"

namespace PYDELTA_NAMESPACE {

namespace {

// base + lam * delta: the product, the sum and the result are rounded one by one.
template <class T, class O, class C>
inline void emit(const T* base, O* out, Spot spot, Pair<C> delta, Vec<C> lam, bool around) {
  const Pair<C> b = load2_upto(base + spot.offset, spot.left);
  store2_upto(out + spot.offset, b.a + delta.a * lam, b.b + delta.b * lam, spot.left, around);
}

template <class T, class S, class O, class C = compute_t<T>>
void retrieve_signed(const T* base, const S* superposed, O* out, Axis axis, SignView signs, C lam,
                     int threads) {
  const bool around = writes_around(out, axis, base);
  for_elements<C>(axis, sizeof(T) + sizeof(S) + sizeof(O), threads, [&](auto tile) {
    const Vec<C> factor = broadcast(lam);
    tile.pairs([=](int64_t, Spot spot) PYDELTA_INLINE {
      const uint32_t minus = tile.minus(signs, spot);
      const Pair<C> s = load2_upto(superposed + spot.offset, spot.left);
      const Pair<C> delta{flip<C>(s.a, minus), flip<C>(s.b, minus >> kLanes<C>)};
      emit(base, out, spot, delta, factor, around);
    });
    if (around) write_fence();
  });
}

template <class T, class S, class O, class C = compute_t<T>>
void retrieve_rotated(const T* base, const S* superposed, O* out, Axis axis, int64_t block, const Rotation& r,
                      C lam, int threads) {
  const bool around = writes_around(out, axis, base);
  for_blocks<C>(axis, block, sizeof(T) + sizeof(S) + sizeof(O), threads, [&](auto tile) {
    const SignView outer = r.outer.view();
    const C scale = C(r.scale);
    const Vec<C> factor = broadcast(lam);
    C* const work = scratch<C>(tile.room());
    transform(tile, block, work, SignedSource<S, decltype(tile)>{superposed, r.inner.view()});
    tile.pairs([=](int64_t i, Spot spot) PYDELTA_INLINE {
      const Pair<C> delta = scaled_pair(work + i * kLanes<C>, scale, tile.minus(outer, spot));
      emit(base, out, spot, delta, factor, around);
    });
    if (around) write_fence();
  });
}

}  // namespace

void retrieve(const void* base, const void* superposed, void* out, int dtype, int superposed_dtype,
              int out_dtype, Axis axis, uint64_t seed, uint64_t stream, double lam, int transform,
              int threads) {
  const auto kind = static_cast<Transform>(transform);
  if (kind == Transform::none) axis = {1, axis.outer * axis.n * axis.inner, 1};
  const int64_t block = kind == Transform::hadamard ? default_block(axis.n) : 1;
  const Rotation r({seed, stream}, axis, kind, block, true);
  visit(dtype, [&](auto t) {
    using T = decltype(t);
    using C = compute_t<T>;
    visit_of<C>(superposed_dtype, [&](auto s) {
      visit_of<C>(out_dtype, [&](auto o) {
        using S = decltype(s);
        using O = decltype(o);
        const T* const from = static_cast<const T*>(base);
        const S* const sum = static_cast<const S*>(superposed);
        O* const to = static_cast<O*>(out);
        if (kind == Transform::hadamard) {
          return retrieve_rotated(from, sum, to, axis, block, r, C(lam), threads);
        }
        retrieve_signed(from, sum, to, axis, r.inner.view(), C(lam), threads);
      });
    });
  });
}

}  // namespace PYDELTA_NAMESPACE
