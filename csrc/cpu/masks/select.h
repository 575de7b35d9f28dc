// Exact order statistics of codes in memory: by bisection, counting a vector at a time.
#pragma once
#include <cmath>

#include "../walk/walk.h"
#include "masks.h"

namespace PYDELTA_NAMESPACE {

// What a group's loops are made for: x alone, x - base, or whatever there is.
enum class Form { plain, delta, any };

// The elements whose magnitudes are in one order: |x - base| * norm, base and norms where they are there.
template <class T, class C = compute_t<T>>
struct Group {
  const T* x;
  const T* base;
  const C* norm;
  int64_t size;

  Form form() const { return norm ? Form::any : base ? Form::delta : Form::plain; }

  // A pair of vectors that has the magnitudes, signs aside.
  template <Order order, Form form = Form::any>
  PYDELTA_INLINE Pair<C> sizes(int64_t j, int64_t left) const {
    const Pair<C> v = load2_upto<order>(x + j, left);
    if (form == Form::plain || (form == Form::any && !base && !norm)) return v;
    const Pair<C> b = form == Form::delta || base ? load2_upto<order>(base + j, left) : Pair<C>{};
    const Pair<C> d{v.a - b.a, v.b - b.b};
    if (form == Form::delta || !norm) return d;
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

// The codes from `low` to `high`, behind those at `end`; room for a whole vector. Without `keep` they only
// count.
template <class C>
PYDELTA_INLINE inline bits_t<C>* append_between(bits_t<C>* end, VecBits<C> code, VecBits<C> low,
                                                VecBits<C> high, bool keep) {
#if defined(__AVX512F__)
  const auto c = (__m512i)code, a = (__m512i)low, b = (__m512i)high;
  if constexpr (sizeof(C) == 4) {
    const auto inside = _mm512_mask_cmple_epi32_mask(_mm512_cmple_epi32_mask(a, c), c, b);
    if (keep) _mm512_storeu_si512(end, _mm512_maskz_compress_epi32(inside, c));
    return end + __builtin_popcount(inside);
  } else {
    const auto inside = _mm512_mask_cmple_epi64_mask(_mm512_cmple_epi64_mask(a, c), c, b);
    if (keep) _mm512_storeu_si512(end, _mm512_maskz_compress_epi64(inside, c));
    return end + __builtin_popcount(inside);
  }
#else
  const auto c = (VecInts<C>)code;
  uint32_t inside = lane_bits<C>((VecBits<C>)((c >= (VecInts<C>)low) & (c <= (VecInts<C>)high)));
  if (!keep) return end + __builtin_popcount(inside);
  for (; inside; inside &= inside - 1) *end++ = code[__builtin_ctz(inside)];
  return end;
#endif
}

// count + 1 in the lanes where a code is above `bound`; all as signed integers.
template <class C>
PYDELTA_INLINE inline VecBits<C> count_above(VecBits<C> count, VecBits<C> code, VecBits<C> bound) {
#if defined(__AVX512F__)
  const auto n = (__m512i)count, c = (__m512i)code, b = (__m512i)bound;
  const auto one = _mm512_set1_epi64(-1);
  if constexpr (sizeof(C) == 4) {
    return (VecBits<C>)_mm512_mask_sub_epi32(n, _mm512_cmplt_epi32_mask(b, c), n, one);
  } else {
    return (VecBits<C>)_mm512_mask_sub_epi64(n, _mm512_cmplt_epi64_mask(b, c), n, one);
  }
#else
  return count - (VecBits<C>)((VecInts<C>)code > (VecInts<C>)bound);
#endif
}

// Lane i plus lane i XOR h, for h down to 1: every lane becomes the sum of all.
template <int h, class C>
PYDELTA_INLINE inline VecBits<C> folded(VecBits<C> v) {
  if constexpr (h == 0) {
    return v;
  } else {
    constexpr auto all = std::make_index_sequence<kLanes<C>>();
    return folded<h / 2, C>(v + bit_cast<VecBits<C>>(exchange<h, C>(bit_cast<Vec<C>>(v), all)));
  }
}

// The sum of the lanes, which is less than 2^32.
template <class C>
PYDELTA_INLINE inline int64_t sum_lanes(VecBits<C> count) {
  return int64_t(folded<kLanes<C> / 2, C>(count)[0]);
}

// How many of n padded codes are above `bound`.
template <class C>
[[gnu::noinline]] int64_t codes_above(const bits_t<C>* codes, int64_t n, bits_t<C> bound) {
  const VecBits<C> bounds = VecBits<C>{} + bound;
  VecBits<C> count[4] = {};
  for (int64_t i = 0; i < n; i += kRun<C>) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      VecBits<C> code;
      memcpy(&code, codes + i + v * kLanes<C>, sizeof(code));
      count[v] = count_above<C>(count[v], code, bounds);
    }
  }
  return sum_lanes<C>(count[0] + count[1] + count[2] + count[3]);
}

// The code of rank `rank` >= 1 (1: the largest) of n padded codes, by bisection. Codes that share their
// lowest bits, as those of widened bf16 do, take fewer steps.
template <class C>
bits_t<C> bisected(const bits_t<C>* codes, int64_t n, int64_t rank) {
  using U = bits_t<C>;
  U low = codes[0], high = codes[0], differing = 0;
  for (int64_t i = 1; i < n; ++i) {
    low = codes[i] < low ? codes[i] : low;
    high = codes[i] > high ? codes[i] : high;
    differing |= codes[i] ^ codes[0];
  }
  const int step = differing ? __builtin_ctzll(differing) : 0;
  while (low < high) {
    const U middle = low + ((((high - low) >> step) + 1) / 2 << step);
    const int64_t count = codes_above<C>(codes, n, middle - 1);
    if (count >= rank) {
      low = middle;
    } else {
      high = middle - (U(1) << step);
    }
    if (count != rank) continue;
    U beyond = high - middle;  // the least code from there on
    for (int64_t i = 0; i < n; ++i) {
      const U distance = codes[i] - middle;  // very large for lower ones
      beyond = distance < beyond ? distance : beyond;
    }
    return middle + beyond;
  }
  return low;
}

// Codes from `low` to `high`.
template <class C>
struct Interval {
  bits_t<C> low, high;
};

// Where the code of a rank of `size` codes most likely lies, by a padded sample of them.
template <class C>
Interval<C> likely(const bits_t<C>* sample, int64_t sampled, int64_t rank, int64_t size, double deviations) {
  const double part = double(rank) / double(size), expected = part * double(sampled),
               wide = deviations * (std::sqrt(expected * (1 - part)) + 1);
  const auto first = int64_t(expected - wide), last = int64_t(expected + wide) + 1;
  return {last > sampled ? 0 : bisected<C>(sample, sampled, last),
          first < 1 ? ~bits_t<C>(0) >> 1 : bisected<C>(sample, sampled, first)};
}

// The code of a rank of n padded codes. If there are many, a sample says which of them to look at. spare:
// room for as many.
template <class C>
bits_t<C> code_of_rank(const bits_t<C>* codes, int64_t n, int64_t rank, bits_t<C>* spare) {
  constexpr int64_t kSampled = 256;
  if (n < 8 * kSampled) return bisected<C>(codes, n, rank);
  for (int64_t i = 0; i < kSampled; ++i) spare[i] = codes[i * (n / kSampled)];
  const Interval<C> band = likely<C>(spare, kSampled, rank, n, 4);
  bits_t<C>* end = spare;
  VecBits<C> above{};
  const VecBits<C> low = VecBits<C>{} + band.low, high = VecBits<C>{} + band.high;
  for (int64_t i = 0; i < n; i += kLanes<C>) {
    VecBits<C> code;
    memcpy(&code, codes + i, sizeof(code));
    above = count_above<C>(above, code, high);
    end = append_between<C>(end, code, low, high, true);
  }
  const int64_t number = rank - sum_lanes<C>(above), inside = end - spare;
  if (number < 1 || number > inside) return bisected<C>(codes, n, rank);
  pad_codes<C>(spare, inside);
  return bisected<C>(spare, inside, number);
}

// The place of the occurrence number `which` >= 1 of a code; there is one among n.
template <class U>
int64_t place_of(const U* codes, int64_t n, U code, int64_t which) {
  constexpr int64_t kBlock = 64;
  int64_t place = 0;
  for (; place + kBlock <= n; place += kBlock) {
    U equal = 0;
    for (int64_t i = 0; i < kBlock; ++i) equal += codes[place + i] == code;
    if (which <= int64_t(equal)) break;
    which -= int64_t(equal);
  }
  while (which > 0) which -= codes[place++] == code;
  return place - 1;
}

}  // namespace PYDELTA_NAMESPACE
