#include "codes/expand.h"

namespace PYDELTA_NAMESPACE {

namespace {

template <int bits, class O>
void dequantize_pieces(const Codes& q, O* out, int threads) {
  using C = compute_t<O>;
  const bool around = writes_around(out, {q.rows * (q.n / q.group), q.group, 1}, nullptr);
  for_pieces(q, sizeof(O) + 1, around, threads, [&](Piece piece) {
    const Values<bits, C> values(q.levels, piece.scale, C(1));
    const auto plus = [](int64_t) PYDELTA_INLINE { return uint32_t(0); };
    expand_piece(values, piece, plus, [=](int64_t offset, Pair<C> v, int64_t left) PYDELTA_INLINE {
      store2_upto<Order::halves>(out + offset, v, left, around);
    });
  });
}

}  // namespace

void dequantize(const Codes& q, void* out, int out_dtype, int threads) {
  if (q.rows * q.n == 0) return;
  visit(out_dtype, [&](auto o) {
    visit_bits(q.bits, [&](auto bits) {
      dequantize_pieces<decltype(bits)::value>(q, static_cast<decltype(o)*>(out), threads);
    });
  });
}

}  // namespace PYDELTA_NAMESPACE
