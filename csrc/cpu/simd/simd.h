// What kernels do with vector registers: load, store, flip, permute.
#pragma once
#include "narrow.h"
#include "vec.h"

namespace PYDELTA_NAMESPACE {

// ---- signs: exact, through the sign bit ---------------------------------------------------------

// What stands for the bits of `minus` where all signs are plus.
struct Plus {};

// a where the bit of `minus` is 0, -a where it is 1. Only the lowest kLanes<C> bits count.
template <class C>
PYDELTA_INLINE inline Vec<C> flip(Vec<C> a, uint32_t minus) {
#if defined(__AVX512DQ__)
  if constexpr (sizeof(C) == 4) {
    const auto m = __mmask16(minus);
    return (Vec<C>)_mm512_mask_xor_ps((__m512)a, m, (__m512)a, _mm512_set1_ps(-0.0f));
  } else {
    const auto m = __mmask8(minus);
    return (Vec<C>)_mm512_mask_xor_pd((__m512d)a, m, (__m512d)a, _mm512_set1_pd(-0.0));
  }
#else
  constexpr int top = 8 * int(sizeof(C)) - 1;
  const VecBits<C> lane = bits_t<C>(minus) << (bits_t<C>(top) - lane_index<C>());
  return bit_cast<Vec<C>>(bit_cast<VecBits<C>>(a) ^ (lane & kSignBit<C>));
#endif
}

template <class C>
PYDELTA_INLINE inline Vec<C> flip(Vec<C> a, Plus) {
  return a;
}

// The same for a pair: the signs of `a` are the low bits, those of `b` follow.
template <class C>
PYDELTA_INLINE inline Pair<C> flip(Pair<C> v, uint32_t minus) {
  return {flip<C>(v.a, minus), flip<C>(v.b, minus >> kLanes<C>)};
}

template <class C>
PYDELTA_INLINE inline Pair<C> flip(Pair<C> v, Plus) {
  return v;
}

PYDELTA_INLINE inline Words flip_words(Words a, uint32_t minus) {
#if defined(__AVX512BW__)
  const auto sign = _mm512_set1_epi16(int16_t(0x8000));  // added to 16 bits it changes the highest alone
  return (Words)_mm512_mask_add_epi16((__m512i)a, __mmask32(minus), (__m512i)a, sign);
#else
  Words place;  // brings the bit of a word's place to the top
  for (int i = 0; i < kWords; ++i) place[i] = uint16_t(0x8000u >> (i % 16));
  return a ^ ((Words{} + uint16_t(minus)) * place & 0x8000u);
#endif
}

PYDELTA_INLINE inline Words flip_words(Words a, Plus) { return a; }

// ---- load: kLanes<C> elements of T, widened to C ---------------------------------------------

PYDELTA_INLINE inline Vec<float> load(const float* p) {
  Vec<float> v;
  memcpy(&v, p, sizeof(v));
  return v;
}

PYDELTA_INLINE inline Vec<double> load(const double* p) {
  Vec<double> v;
  memcpy(&v, p, sizeof(v));
  return v;
}

// IEEE half to float for every bit pattern: the exponent is rebased by a multiplication, which is exact.
PYDELTA_INLINE inline float widen(f16 h) {
  const uint32_t sign = uint32_t(h.bits & 0x8000u) << 16, magnitude = h.bits & 0x7fffu;
  const float rebased = bit_cast<float>(magnitude << 13) * 0x1p112f;
  uint32_t bits = bit_cast<uint32_t>(rebased);
  if (magnitude >= 0x7c00u) bits |= 0x7f800000u;
  return bit_cast<float>(bits | sign);
}

PYDELTA_INLINE inline Vec<float> load(const f16* p) {
#if defined(__AVX512F__)
  return (Vec<float>)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
#elif defined(__F16C__)
  return (Vec<float>)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
#else
  Vec<float> v;
  for (int i = 0; i < kLanes<float>; ++i) v[i] = widen(p[i]);
  return v;
#endif
}

// ---- pairs: 2 kLanes<C> elements at a time ---------------------------------------------------

// `minus` gives the elements' signs in the order of memory.
template <Order order, class T, class Minus = Plus, class C = compute_t<T>>
PYDELTA_INLINE inline Pair<C> load2(const T* p, Minus minus = {}) {
  if constexpr (std::is_same_v<T, bf16>) {
    Words raw;
    memcpy(&raw, p, sizeof(raw));
    const auto words = (VecBits<float>)flip_words(raw, minus);
    const Pair<C> parity{bit_cast<Vec<float>>(words << 16), bit_cast<Vec<float>>(words & 0xffff0000u)};
    if constexpr (order == Order::parity) return parity;
    return zip<C>(parity, std::make_index_sequence<kLanes<C>>());
  } else {
    const Pair<C> halves = flip<C>(Pair<C>{load(p), load(p + kLanes<C>)}, minus);
    if constexpr (order == Order::halves) return halves;
    return unzip<C>(halves, std::make_index_sequence<kLanes<C>>());
  }
}

// ---- store: round to nearest even, once ------------------------------------------------------

// A register to memory: into the cache, or around it if `around` (p is then aligned to the register).
template <class R>
PYDELTA_INLINE inline void write(void* p, R value, bool around) {
  static_assert(sizeof(R) == kVectorBytes, "one register");
#if defined(__AVX512F__)
  if (around) return _mm512_stream_si512((__m512i*)p, (__m512i)value);
#elif defined(__AVX2__)
  if (around) return _mm256_stream_si256((__m256i*)p, (__m256i)value);
#elif defined(__SSE2__)
  if (around) return _mm_stream_si128((__m128i*)p, (__m128i)value);
#endif
  (void)around;
  memcpy(p, &value, sizeof(value));
}

PYDELTA_INLINE inline void write_fence() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// `minus` gives the elements' signs in the order of memory: rounding to nearest commutes with them.
template <Order order, class T, class C, class Minus = Plus>
PYDELTA_INLINE inline void store2(T* p, Pair<C> v, bool around, Minus minus = {}) {
  if constexpr (std::is_same_v<T, bf16>) {
    write(p, flip_words(join_bf16<order>(v), minus), around);
  } else {
    if constexpr (order == Order::parity) v = zip<C>(v, std::make_index_sequence<kLanes<C>>());
    v = flip<C>(v, minus);
    if constexpr (sizeof(T) == sizeof(C)) {
      write(p, v.a, around);
      write(p + kLanes<C>, v.b, around);
    } else {
      const Half halves[2] = {narrow(v.a), narrow(v.b)};
      Words both;
      memcpy(&both, halves, sizeof(both));
      write(p, both, around);
    }
  }
}

// ---- part of a vector or pair, at the end of a row: `count` elements, or all if there are more -

template <class T, class C = compute_t<T>>
PYDELTA_INLINE inline Vec<C> load_upto(const T* p, int64_t count) {
  if (count >= kLanes<C>) return load(p);
  T raw[kLanes<C>] = {};
  if (count > 0) memcpy(raw, p, sizeof(T) * size_t(count));
  return load(raw);
}

template <class T, class C = compute_t<T>>
PYDELTA_INLINE inline void store_upto(T* p, Vec<C> v, int64_t count, bool around) {
  if (count >= kLanes<C> && sizeof(T) == sizeof(C)) return write(p, v, around);
  T raw[2 * kLanes<C>];
  store2<Order::halves>(raw, Pair<C>{v, v}, false);
  const int64_t present = count < kLanes<C> ? count : kLanes<C>;
  if (present > 0) memcpy(p, raw, sizeof(T) * size_t(present));
}

template <Order order, class T, class Minus = Plus, class C = compute_t<T>>
PYDELTA_INLINE inline Pair<C> load2_upto(const T* p, int64_t count, Minus minus = {}) {
  if (count >= 2 * kLanes<C>) return load2<order>(p, minus);
  T raw[2 * kLanes<C>] = {};
  if (count > 0) memcpy(raw, p, sizeof(T) * size_t(count));
  return load2<order>(raw, minus);
}

template <Order order, class T, class C, class Minus = Plus>
PYDELTA_INLINE inline void store2_upto(T* p, Pair<C> v, int64_t count, bool around, Minus minus = {}) {
  if (count >= 2 * kLanes<C>) return store2<order>(p, v, around, minus);
  T raw[2 * kLanes<C>];
  store2<order>(raw, v, false, minus);
  if (count > 0) memcpy(p, raw, sizeof(T) * size_t(count));
}

// ---- arithmetic ------------------------------------------------------------------------------

// Lane i of the result is lane i XOR h.
template <int h, class C, size_t... lane>
PYDELTA_INLINE inline Vec<C> exchange(Vec<C> v, std::index_sequence<lane...>) {
#if defined(__clang__)
  return __builtin_shufflevector(v, v, (int(lane) ^ h)...);
#else
  return __builtin_shuffle(v, VecBits<C>{(bits_t<C>(lane) ^ bits_t<C>(h))...});
#endif
}

// a + b * c where the product is exact (c is +-1), so that fused or not the bits are the same. On some
// cores multiply-adds have execution ports that additions have not: half of a butterfly goes there.
template <class C>
PYDELTA_INLINE inline Vec<C> add_exact_product(Vec<C> a, Vec<C> b, Vec<C> c) {
#if defined(__AVX512F__)
  if constexpr (sizeof(C) == 4) {
    return (Vec<C>)_mm512_fmadd_ps((__m512)b, (__m512)c, (__m512)a);
  } else {
    return (Vec<C>)_mm512_fmadd_pd((__m512d)b, (__m512d)c, (__m512d)a);
  }
#elif defined(__FMA__)
  if constexpr (sizeof(C) == 4) {
    return (Vec<C>)_mm256_fmadd_ps((__m256)b, (__m256)c, (__m256)a);
  } else {
    return (Vec<C>)_mm256_fmadd_pd((__m256d)b, (__m256d)c, (__m256d)a);
  }
#else
  return a + b * c;
#endif
}

// +1 in the lanes whose bit h is clear, -1 in those where it is set.
template <int h, class C>
PYDELTA_INLINE inline Vec<C> lane_signs() {
  Vec<C> signs;
  for (int i = 0; i < kLanes<C>; ++i) signs[i] = (i & h) ? C(-1) : C(1);
  return signs;
}

// One butterfly stage between lanes: lane i gets v[i] + v[i^h] where bit h of i is clear, v[i^h] - v[i] where
// set.
template <int h, class C>
PYDELTA_INLINE inline Vec<C> lane_stage(Vec<C> v) {
  const auto partner = exchange<h, C>(v, std::make_index_sequence<kLanes<C>>());
  return add_exact_product<C>(partner, v, lane_signs<h, C>());
}

}  // namespace PYDELTA_NAMESPACE
