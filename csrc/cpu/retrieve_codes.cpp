#include "codes/expand.h"
#include "walk/row_blocks.h"

namespace PYDELTA_NAMESPACE {

namespace {

// Signs of elements j, j + 1, ..., 32 of them wherever j is: there is room to read behind an axis's last
// sign.
PYDELTA_INLINE inline uint32_t signs_from(SignView view, int64_t j) {
  uint64_t bits;
  memcpy(&bits, view.bytes + ((j >> 3) & view.mask), sizeof(bits));
  return uint32_t(bits >> (j & 7));
}

// base + lam * q with the model's signs: they go into the codes' own, and the values of a group are few.
template <int bits, class T, class O, class C = compute_t<T>>
void retrieve_pieces(const T* base, const Codes& q, O* out, SignView signs, C lam, int threads) {
  const bool around = writes_around(out, {q.rows * (q.n / q.group), q.group, 1}, base);
  for_pieces(q, sizeof(T) + sizeof(O) + 1, around, threads, [&](Piece piece) {
    const Values<bits, C> values(q.levels, piece.scale, lam);
    const auto minus = [=](int64_t i) PYDELTA_INLINE { return signs_from(signs, piece.j + i); };
    expand_piece(values, piece, minus, [=](int64_t offset, Pair<C> v, int64_t left) PYDELTA_INLINE {
      const Pair<C> b = load2_upto<Order::halves>(base + offset, left);
      store2_upto<Order::halves>(out + offset, Pair<C>{b.a + v.a, b.b + v.b}, left, around);
    });
  });
}

}  // namespace

void retrieve_codes(const void* base, const Codes& q, void* out, int dtype, int out_dtype, Key key,
                    double lam, int transform, int threads) {
  if (q.rows * q.n == 0) return;
  const auto kind = static_cast<Transform>(transform);
  if (kind == Transform::hadamard) {
    const int sums = int(static_cast<Dtype>(dtype) == Dtype::f64 ? Dtype::f64 : Dtype::f32);
    return retrieve_blocks(
        base, out, dtype, out_dtype, q.rows, q.n, key, lam, threads,
        [&](int64_t first, int64_t count, void* sum) { dequantize(rows_of(q, first, count), sum, sums, 1); });
  }
  const Rotation r(key, {q.rows, q.n, 1}, kind, 1, true, Order::halves, Order::halves);
  visit(dtype, [&](auto t) {
    using T = decltype(t);
    visit_of<compute_t<T>>(out_dtype, [&](auto o) {
      visit_bits(q.bits, [&](auto bits) {
        retrieve_pieces<decltype(bits)::value>(static_cast<const T*>(base), q, static_cast<decltype(o)*>(out),
                                               r.inner.view(), compute_t<T>(lam), threads);
      });
    });
  });
}

}  // namespace PYDELTA_NAMESPACE
