// Exact order statistics of codes in memory: by bisection, counting a vector at a time.
#pragma once
#include "masks.h"
#include "walk.h"

namespace PYDELTA_NAMESPACE {

// x - base of a pair of vectors; x where there is no base.
template <Order order, class T, class C = compute_t<T>>
PYDELTA_INLINE inline Pair<C> delta_pair(const T* x, const T* base, int64_t j, int64_t left) {
  const Pair<C> v = load2_upto<order>(x + j, left);
  if (!base) return v;
  const Pair<C> b = load2_upto<order>(base + j, left);
  return {v.a - b.a, v.b - b.b};
}

// The elements whose magnitudes are in one order: |x - base| * norm, base and norms where they are there.
template <class T, class C = compute_t<T>>
struct Group {
  const T* x;
  const T* base;
  const C* norm;
  int64_t size;

  // A pair of vectors that has the magnitudes, signs aside.
  template <Order order>
  PYDELTA_INLINE Pair<C> sizes(int64_t j, int64_t left) const {
    const Pair<C> d = delta_pair<order>(x, base, j, left);
    if (!norm) return d;
    const Pair<C> factor = load2_upto<order>(norm + j, left);
    return {d.a * factor.a, d.b * factor.b};
  }
  // Codes of `count` elements from `begin` on, padded; room for kRun<C> more.
  void fill(bits_t<C>* codes, int64_t begin, int64_t count) const;
};

// The magnitudes' codes of a pair.
template <class C>
PYDELTA_INLINE inline void store_codes(Pair<C> v, bits_t<C>* codes) {
  write(codes, codes_of<C>(v.a), false);
  write(codes + kLanes<C>, codes_of<C>(v.b), false);
}

// What stands behind the last code: before all codes in the signed order.
template <class C>
constexpr bits_t<C> kNoCode = ~bits_t<C>(0);

// Codes are counted in runs of this many, padded by kNoCode.
template <class C>
constexpr int64_t kRun = 4 * kLanes<C>;

template <class C>
void pad_codes(bits_t<C>* codes, int64_t n) {
  for (int64_t i = n; i % kRun<C> != 0; ++i) codes[i] = kNoCode<C>;
}

template <class T, class C>
void Group<T, C>::fill(bits_t<C>* codes, int64_t begin, int64_t count) const {
  constexpr int64_t places = 2 * kLanes<C>;
  for (int64_t i = 0; i < count; i += places) {
    store_codes<C>(sizes<Order::halves>(begin + i, count - i), codes + i);
  }
  pad_codes<C>(codes, count);
}

// The codes that lie strictly between two others, behind those at `end`; room for a whole vector.
template <class C>
PYDELTA_INLINE inline bits_t<C>* append_between(bits_t<C>* end, VecBits<C> code, VecBits<C> low,
                                                VecBits<C> high) {
#if defined(__AVX512F__)
  const auto c = (__m512i)code, a = (__m512i)low, b = (__m512i)high;
  if constexpr (sizeof(C) == 4) {
    const auto inside = _mm512_mask_cmplt_epi32_mask(_mm512_cmplt_epi32_mask(a, c), c, b);
    _mm512_storeu_si512(end, _mm512_maskz_compress_epi32(inside, c));
    return end + __builtin_popcount(inside);
  } else {
    const auto inside = _mm512_mask_cmplt_epi64_mask(_mm512_cmplt_epi64_mask(a, c), c, b);
    _mm512_storeu_si512(end, _mm512_maskz_compress_epi64(inside, c));
    return end + __builtin_popcount(inside);
  }
#else
  const auto c = (VecInts<C>)code;
  for (uint32_t inside = lane_bits<C>((VecBits<C>)((c > (VecInts<C>)low) & (c < (VecInts<C>)high))); inside;
       inside &= inside - 1) {
    *end++ = code[__builtin_ctz(inside)];
  }
  return end;
#endif
}

// count + 1 in the lanes where a code is at least `bound`.
template <class C>
PYDELTA_INLINE inline VecBits<C> count_at_least(VecBits<C> count, VecBits<C> code, VecBits<C> bound) {
#if defined(__AVX512F__)
  const auto n = (__m512i)count, c = (__m512i)code, b = (__m512i)bound;
  const auto one = _mm512_set1_epi64(-1);
  if constexpr (sizeof(C) == 4) {
    return (VecBits<C>)_mm512_mask_sub_epi32(n, _mm512_cmple_epi32_mask(b, c), n, one);
  } else {
    return (VecBits<C>)_mm512_mask_sub_epi64(n, _mm512_cmple_epi64_mask(b, c), n, one);
  }
#else
  return count - (VecBits<C>)((VecInts<C>)code >= (VecInts<C>)bound);
#endif
}

template <class C>
PYDELTA_INLINE inline int64_t sum_lanes(VecBits<C> count) {
  int64_t total = 0;
  for (int i = 0; i < kLanes<C>; ++i) total += int64_t(count[i]);
  return total;
}

// How many of n padded codes are at least `bound`.
template <class C>
[[gnu::noinline]] int64_t codes_at_least(const bits_t<C>* codes, int64_t n, bits_t<C> bound) {
  const VecBits<C> least = VecBits<C>{} + bound;
  VecBits<C> count[4] = {};
  for (int64_t i = 0; i < n; i += kRun<C>) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      VecBits<C> code;
      memcpy(&code, codes + i + v * kLanes<C>, sizeof(code));
      count[v] = count_at_least<C>(count[v], code, least);
    }
  }
  return sum_lanes<C>(count[0] + count[1] + count[2] + count[3]);
}

// The least of n padded codes that is at least `bound`; there is one.
template <class C>
bits_t<C> least_code_from(const bits_t<C>* codes, int64_t n, bits_t<C> bound) {
  constexpr bits_t<C> most = ~bits_t<C>(0) >> 1;
  bits_t<C> found = most;
  for (int64_t i = 0; i < n; ++i) {
    const bits_t<C> code = codes[i] <= most && codes[i] >= bound ? codes[i] : most;
    found = code < found ? code : found;
  }
  return found;
}

// The code of rank `rank` >= 1 (1: the largest) of n padded codes; it lies in [low, high].
template <class C>
bits_t<C> code_of_rank(const bits_t<C>* codes, int64_t n, int64_t rank, bits_t<C> low, bits_t<C> high) {
  while (low < high) {
    const bits_t<C> middle = low + (high - low + 1) / 2;
    const int64_t count = codes_at_least<C>(codes, n, middle);
    if (count == rank) return least_code_from<C>(codes, n, middle);
    if (count > rank) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

// The place of the occurrence number `which` >= 1 of a code.
template <class U>
int64_t place_of(const U* codes, U code, int64_t which) {
  int64_t place = -1;
  while (which > 0) which -= codes[++place] == code;
  return place;
}

}  // namespace PYDELTA_NAMESPACE
