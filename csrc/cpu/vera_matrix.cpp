#include "kernels.h"
#include "random/random_bits.h"
#include "walk/parallel.h"
#include "walk/walk.h"

namespace PYDELTA_NAMESPACE {

namespace {

// 2 u - 1 in [-1, 1): the draw's upper 24 bits as a signed integer, times a power of two. Exact.
PYDELTA_INLINE inline Vec<float> centred(Draws draws) {
  using Signed = typename vector_of<int32_t, kLanes<float>>::type;
  const auto whole = (Signed)(draws ^ 0x80000000u) >> 8;
  return __builtin_convertvector(whole, Vec<float>) * 0x1p-23f;
}

template <class T>
PYDELTA_INLINE inline void store_group(T* out, const Draws* draws) {
  constexpr int lanes = kLanes<float>;
  for (int pair = 0; pair < kPairs; ++pair) {
    const Pair<float> v{centred(draws[2 * pair]), centred(draws[2 * pair + 1])};
    T* const to = out + pair * 2 * lanes;
    if constexpr (std::is_same_v<T, double>) {
      for (int i = 0; i < lanes; ++i) to[i] = v.a[i], to[lanes + i] = v.b[i];
    } else {
      store2<Order::halves>(to, v, false);
    }
  }
}

// Elements of a row from draw `first` on; a group that the row begins or ends in goes through memory of its
// own.
template <class T>
void fill_row(const Stream& stream, uint64_t first, int64_t count, T* out) {
  const uint64_t group = first / kGroup, end = (first + uint64_t(count) + kGroup - 1) / kGroup;
  const auto skip = int64_t(first % kGroup);
  for_groups_of_draws<Order::halves>(stream, group, end, [=](int64_t i, const Draws* draws) PYDELTA_INLINE {
    const int64_t at = i * kGroup - skip;
    if (at >= 0 && at + kGroup <= count) return store_group(out + at, draws);
    alignas(kVectorBytes) T part[kGroup];
    store_group(part, draws);
    const int64_t from = at < 0 ? -at : 0, to = count - at < kGroup ? count - at : kGroup;
    memcpy(out + at + from, part + from, size_t(to - from) * sizeof(T));
  });
}

}  // namespace

void vera_matrix(void* out, int dtype, int64_t rows, int64_t columns, uint64_t first, Key key, int threads) {
  if (rows * columns == 0) return;
  const Stream generator(key);
  visit(dtype, [&](auto t) {
    using T = decltype(t);
    // A draw costs about as much as moving eight bytes.
    parallel_for(rows, 8 * columns, threads, [&](int64_t i) {
      fill_row(generator, first + (uint64_t(i) << 32), columns, static_cast<T*>(out) + i * columns);
    });
  });
}

}  // namespace PYDELTA_NAMESPACE
