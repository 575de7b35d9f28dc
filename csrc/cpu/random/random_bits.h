// Random numbers in vectors: Philox on many blocks at once, and what lies below a bound as packed bits.
#pragma once
#include "../../core/philox.h"
#include "signs.h"

namespace PYDELTA_NAMESPACE {

// A key's counter words and round keys.
struct Stream {
  uint64_t low, high;
  uint64_t k0[kPhiloxRounds], k1[kPhiloxRounds];

  explicit Stream(Key key) : low(uint32_t(key.stream)), high(key.stream >> 32) {
    for (int i = 0; i < kPhiloxRounds; ++i) {
      k0[i] = uint32_t(uint32_t(key.seed) + uint32_t(i) * kPhiloxW0);
      k1[i] = uint32_t(uint32_t(key.seed >> 32) + uint32_t(i) * kPhiloxW1);
    }
  }
};

// One block per 64-bit lane, a word of it in the lane's lower half; the upper half does not count.
using Blocks = VecBits<double>;
using Draws = VecBits<float>;

PYDELTA_INLINE inline Blocks product(Blocks a, uint32_t b) {
#if defined(__AVX512F__)
  return (Blocks)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(int64_t(b)));
#elif defined(__AVX2__)
  return (Blocks)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(int64_t(b)));
#elif defined(__SSE2__)
  return (Blocks)_mm_mul_epu32((__m128i)a, _mm_set1_epi64x(int64_t(b)));
#else
  return (a & 0xffffffffu) * uint64_t(b);
#endif
}

// The even lanes of both, or the odd ones: a0 b0 a2 b2 ... or a1 b1 a3 b3 ...
template <int odd, size_t... lane>
PYDELTA_INLINE inline Blocks interleave(Blocks a, Blocks b, std::index_sequence<lane...>) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, (int(lane & ~1u) + odd + int(lane % 2) * int(sizeof...(lane)))...);
#else
  return __builtin_shuffle(a, b, Blocks{((lane & ~1u) + odd + lane % 2 * sizeof...(lane))...});
#endif
}

#if !defined(__AVX512F__)
// Bit i: the sign of lane i.
template <class C>
PYDELTA_INLINE inline uint32_t lane_bits(VecBits<C> v) {
#if defined(__AVX2__)
  if constexpr (sizeof(C) == 4) return uint32_t(_mm256_movemask_ps((__m256)v));
  if constexpr (sizeof(C) == 8) return uint32_t(_mm256_movemask_pd((__m256d)v));
#elif defined(__SSE2__)
  if constexpr (sizeof(C) == 4) return uint32_t(_mm_movemask_ps((__m128)v));
  if constexpr (sizeof(C) == 8) return uint32_t(_mm_movemask_pd((__m128d)v));
#else
  uint32_t bits = 0;
  for (int i = 0; i < kLanes<C>; ++i) bits |= uint32_t(v[i] >> (8 * sizeof(C) - 1)) << i;
  return bits;
#endif
}
#endif

// Bit i: whether lane i lies below the bound.
PYDELTA_INLINE inline uint64_t bits_below(Draws draws, uint32_t bound) {
#if defined(__AVX512F__)
  return _mm512_cmplt_epu32_mask((__m512i)draws, _mm512_set1_epi32(int(bound)));
#else
  return lane_bits<float>((Draws)(draws < bound));
#endif
}

// Draws that are made together, a group: two pairs of vectors, for one alone waits for its own products.
// Groups are counted from draw 0 on, so that all blocks of one have the same upper half of their number.
constexpr int kPairs = 2, kGroup = 2 * kPairs * kLanes<float>;

// Group number `group`, elements by `order` within pairs. upper: of its blocks' numbers; the first two rounds
// work on it apart, for it stays the same for long.
template <Order order>
PYDELTA_INLINE inline void draw(const Stream& stream, uint64_t group, uint64_t upper,
                                Draws (&draws)[2 * kPairs]) {
  constexpr int lanes = kLanes<double>;
  constexpr auto all = std::make_index_sequence<lanes>();
  const Blocks first = product(Blocks{} + stream.low, kPhiloxM1);
  const Blocks second = product((first >> 32) ^ upper ^ stream.k0[0], kPhiloxM0);
  Blocks c0[kPairs], c1[kPairs], c2[kPairs], c3[kPairs];
#pragma GCC unroll 2
  for (int p = 0; p < kPairs; ++p) {
    Blocks block;
    for (int i = 0; i < lanes; ++i) {
      block[i] = uint64_t((order == Order::parity ? i : i / 2 + i % 2 * (lanes / 2)) + p * lanes);
    }
    const Blocks p0 = product(block + group * (kGroup / 4), kPhiloxM0);
    const Blocks p1 = product((p0 >> 32) ^ (stream.high ^ stream.k1[0]), kPhiloxM1);
    c0[p] = (p1 >> 32) ^ (first ^ stream.k0[1]);
    c1[p] = p1;
    c2[p] = p0 ^ ((second >> 32) ^ stream.k1[1]);
    c3[p] = second;
  }
#pragma GCC unroll 10
  for (int round = 2; round < kPhiloxRounds; ++round) {
#pragma GCC unroll 2
    for (int p = 0; p < kPairs; ++p) {
      const Blocks p0 = product(c0[p], kPhiloxM0), p1 = product(c2[p], kPhiloxM1);
      c0[p] = (p1 >> 32) ^ c1[p] ^ stream.k0[round];
      c1[p] = p1;
      c2[p] = (p0 >> 32) ^ c3[p] ^ stream.k1[round];
      c3[p] = p0;
    }
  }
#pragma GCC unroll 2
  for (int p = 0; p < kPairs; ++p) {
    const auto join = [](Blocks a, Blocks b) PYDELTA_INLINE { return (a & 0xffffffffu) | b << 32; };
    if constexpr (order == Order::parity) {
      draws[2 * p] = (Draws)join(c0[p], c2[p]);
      draws[2 * p + 1] = (Draws)join(c1[p], c3[p]);
    } else {
      const Blocks a = join(c0[p], c1[p]), b = join(c2[p], c3[p]);
      draws[2 * p] = (Draws)interleave<0>(a, b, all);
      draws[2 * p + 1] = (Draws)interleave<1>(a, b, all);
    }
  }
}

// body(i, draws) for the i-th of the groups first .. end - 1.
template <Order order, class Body>
PYDELTA_INLINE inline void for_groups_of_draws(const Stream& stream, uint64_t first, uint64_t end,
                                               const Body& body) {
  constexpr int kUpper = 32 - __builtin_ctz(kGroup / 4);
  const Stream local = stream;  // which no store of the body can change
  for (uint64_t group = first; group < end;) {
    const uint64_t upper = group >> kUpper, next = (upper + 1) << kUpper;
    for (; group < (end < next ? end : next); ++group) {
      Draws draws[2 * kPairs];
      draw<order>(local, group, upper, draws);
      body(int64_t(group - first), draws);
    }
  }
}

// Words that random_bits() may write to for so many draws.
constexpr int64_t bit_words(int64_t count) { return count / 32 + kGroup / 16 + 2; }

// Memory that is fetched on the way, so much for each draw: what the bits are for, which comes just
// afterwards.
struct Fetch {
  const void* from;
  int bytes;
};

template <Order order>
[[gnu::noinline]] void bits_of_groups(const Stream& stream, uint64_t first, uint64_t end, uint32_t bound,
                                      Fetch fetch, uint32_t* words) {
  char* const bytes = reinterpret_cast<char*>(words);
  const int64_t lines = fetch.bytes * kGroup / 64;
  for_groups_of_draws<order>(stream, first, end, [=](int64_t i, const Draws* draws) PYDELTA_INLINE {
    const char* const from = static_cast<const char*>(fetch.from) + i * fetch.bytes * kGroup;
    for (int64_t line = 0; line < lines; ++line) __builtin_prefetch(from + 64 * line);
    uint64_t bits = 0;
    for (int d = 0; d < 2 * kPairs; ++d) bits |= bits_below(draws[d], bound) << (d * kLanes<float>);
    memcpy(bytes + i * (kGroup / 8), &bits, kGroup / 8);
  });
}

// Bit i of the words, by `order` within pairs of vectors: whether draw first + i lies below the bound.
inline void random_bits(const Stream& stream, uint64_t first, int64_t count, uint32_t bound, Order order,
                        Fetch fetch, uint32_t* words) {
  const uint64_t group = first / kGroup, end = (first + uint64_t(count) + kGroup - 1) / kGroup;
  const auto skip = int64_t(first % kGroup);
  if (skip == 0 && order == Order::parity) {
    return bits_of_groups<Order::parity>(stream, group, end, bound, fetch, words);
  }
  bits_of_groups<Order::halves>(stream, group, end, bound, fetch, words);
  if (skip == 0) return;
  for (int64_t w = 0; w < (count + 31) / 32; ++w) {
    const uint32_t* const from = words + w + skip / 32;
    const auto word = uint32_t((uint64_t(from[1]) << 32 | from[0]) >> (skip % 32));
    words[w] = order == Order::parity ? by_parity(word) : word;
  }
}

// The draws first .. first + count - 1 themselves; room for kGroup more. Returns where they begin.
inline const uint32_t* random_draws(const Stream& stream, uint64_t first, int64_t count, uint32_t* out) {
  const uint64_t group = first / kGroup, end = (first + uint64_t(count) + kGroup - 1) / kGroup;
  for_groups_of_draws<Order::halves>(stream, group, end, [=](int64_t i, const Draws* draws) PYDELTA_INLINE {
    memcpy(out + i * kGroup, draws, kGroup * sizeof(uint32_t));
  });
  return out + first % kGroup;
}

}  // namespace PYDELTA_NAMESPACE
