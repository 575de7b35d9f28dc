// One vector register of the instruction set this file is compiled for: load, store, flip, permute.
#pragma once
#include <type_traits>
#include <utility>

#include "../core/types.h"

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif
#if !defined(__GNUC__)
#error "pydelta's CPU kernels use GCC vector extensions: build with GCC 9 or newer, or with Clang"
#endif

namespace PYDELTA_NAMESPACE {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
constexpr int kRadixLog = 4;  // 16 of 32 registers hold data
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
constexpr int kRadixLog = 3;  // 8 of 16
#elif defined(__aarch64__)
constexpr int kVectorBytes = 16;
constexpr int kRadixLog = 4;
#else
constexpr int kVectorBytes = 16;
constexpr int kRadixLog = 3;
#endif

template <class E, int N>
struct vector_of {
  typedef E type __attribute__((vector_size(N * sizeof(E))));
};
template <class C>
constexpr int kLanes = kVectorBytes / int(sizeof(C));
template <class C>
using Vec = typename vector_of<C, kLanes<C>>::type;
template <class C>
using VecBits = typename vector_of<bits_t<C>, kLanes<C>>::type;

template <class C>
constexpr bits_t<C> kSignBit = bits_t<C>(1) << (8 * sizeof(C) - 1);

template <class C>
PYDELTA_INLINE inline Vec<C> broadcast(C value) {
  return Vec<C>{} + value;
}

// 0, 1, 2, ... in the lanes.
template <class C>
PYDELTA_INLINE inline VecBits<C> lane_index() {
  VecBits<C> index;
  for (int i = 0; i < kLanes<C>; ++i) index[i] = bits_t<C>(i);
  return index;
}

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

template <class C>
struct Pair {
  Vec<C> a, b;
};

// Which elements of a pair its vectors hold: the first and the second half, or the even and the odd ones. The
// latter is how bf16 comes apart cheapest (a word holds an even element below an odd one, each the upper half
// of an fp32), so loops over bf16 work in that order from load to store.
enum class Order { halves, parity };

template <class... T>
constexpr Order order_of = (std::is_same_v<T, bf16> || ...) ? Order::parity : Order::halves;

template <class C, size_t... lane>
PYDELTA_INLINE inline Pair<C> unzip(Pair<C> p, std::index_sequence<lane...>) {
#if defined(__clang__)
  return {__builtin_shufflevector(p.a, p.b, (2 * int(lane))...),
          __builtin_shufflevector(p.a, p.b, (2 * int(lane) + 1)...)};
#else
  return {__builtin_shuffle(p.a, p.b, VecBits<C>{bits_t<C>(2 * lane)...}),
          __builtin_shuffle(p.a, p.b, VecBits<C>{bits_t<C>(2 * lane + 1)...})};
#endif
}

template <class C, size_t... lane>
PYDELTA_INLINE inline Pair<C> zip(Pair<C> p, std::index_sequence<lane...>) {
  constexpr int lanes = kLanes<C>;
#if defined(__clang__)
  return {__builtin_shufflevector(p.a, p.b, (int(lane / 2 + lane % 2 * lanes))...),
          __builtin_shufflevector(p.a, p.b, (int(lane / 2 + lane % 2 * lanes) + lanes / 2)...)};
#else
  return {__builtin_shuffle(p.a, p.b, VecBits<C>{bits_t<C>(lane / 2 + lane % 2 * lanes)...}),
          __builtin_shuffle(p.a, p.b, VecBits<C>{bits_t<C>(lane / 2 + lane % 2 * lanes + lanes / 2)...})};
#endif
}

template <Order order, class T, class C = compute_t<T>>
PYDELTA_INLINE inline Pair<C> load2(const T* p) {
  if constexpr (std::is_same_v<T, bf16>) {
    VecBits<float> words;
    memcpy(&words, p, sizeof(words));
    const Pair<C> parity{bit_cast<Vec<float>>(words << 16), bit_cast<Vec<float>>(words & 0xffff0000u)};
    if constexpr (order == Order::parity) return parity;
    return zip<C>(parity, std::make_index_sequence<kLanes<C>>());
  } else {
    const Pair<C> halves{load(p), load(p + kLanes<C>)};
    if constexpr (order == Order::halves) return halves;
    return unzip<C>(halves, std::make_index_sequence<kLanes<C>>());
  }
}

// ---- store: round to nearest even, once ------------------------------------------------------

// The result is the upper half of each word; what is below it is left over. A NaN may come out as an
// infinity.
PYDELTA_INLINE inline VecBits<float> round_to_bf16(Vec<float> v) {
  const auto bits = bit_cast<VecBits<float>>(v);
  return bits + 0x7fffu + ((bits >> 16) & 1u);
}

// The same with NaN for NaN.
PYDELTA_INLINE inline VecBits<float> round_to_bf16_or_nan(Vec<float> v) {
  const auto nan = bit_cast<VecBits<float>>(v != v);
  return (round_to_bf16(v) & ~nan) | (nan & 0x7fc00000u);
}

PYDELTA_INLINE inline VecBits<float> join_bf16(Pair<float> v) {
#if defined(__AVX512F__)
  // One comparison looks for NaN in both; there hardly ever is one.
  if (__builtin_expect(_mm512_cmp_ps_mask((__m512)v.a, (__m512)v.b, _CMP_UNORD_Q) == 0, 1)) {
    return (round_to_bf16(v.a) >> 16) | (round_to_bf16(v.b) & 0xffff0000u);
  }
#endif
  return (round_to_bf16_or_nan(v.a) >> 16) | (round_to_bf16_or_nan(v.b) & 0xffff0000u);
}

// Float to IEEE half, ties to even, for every bit pattern: adding a power of two 13 binary places
// above the value's leading bit lets the adder itself do the rounding.
PYDELTA_INLINE inline f16 narrow(float value) {
  const uint32_t bits = bit_cast<uint32_t>(value), magnitude = bits & 0x7fffffffu;
  uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u;
  } else if (magnitude >= 0x477ff000u) {  // 65520 and more round to infinity
    half = 0x7c00u;
  } else {
    const uint32_t exponent = magnitude >> 23 > 113u ? magnitude >> 23 : 113u;
    const float anchor = bit_cast<float>((exponent + 13u) << 23);
    const uint32_t sum = bit_cast<uint32_t>(bit_cast<float>(magnitude) + anchor);
    half = ((exponent - 113u) << 10) + (sum - bit_cast<uint32_t>(anchor));
  }
  return {uint16_t(half | (bits >> 16 & 0x8000u))};
}

using Half = typename vector_of<uint16_t, kLanes<float>>::type;

PYDELTA_INLINE inline Half narrow(Vec<float> v) {
#if defined(__AVX512F__)
  return (Half)_mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT);
#elif defined(__F16C__)
  return (Half)_mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT);
#else
  Half half;
  for (int i = 0; i < kLanes<float>; ++i) half[i] = narrow(v[i]).bits;
  return half;
#endif
}

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

template <Order order, class T, class C>
PYDELTA_INLINE inline void store2(T* p, Pair<C> v, bool around) {
  if constexpr (std::is_same_v<T, bf16>) {
    if constexpr (order == Order::halves) v = unzip<C>(v, std::make_index_sequence<kLanes<C>>());
    write(p, join_bf16(v), around);
  } else {
    if constexpr (order == Order::parity) v = zip<C>(v, std::make_index_sequence<kLanes<C>>());
    if constexpr (sizeof(T) == sizeof(C)) {
      write(p, v.a, around);
      write(p + kLanes<C>, v.b, around);
    } else {
      const Half halves[2] = {narrow(v.a), narrow(v.b)};
      VecBits<float> both;
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

template <Order order, class T, class C = compute_t<T>>
PYDELTA_INLINE inline Pair<C> load2_upto(const T* p, int64_t count) {
  if (count >= 2 * kLanes<C>) return load2<order>(p);
  T raw[2 * kLanes<C>] = {};
  if (count > 0) memcpy(raw, p, sizeof(T) * size_t(count));
  return load2<order>(raw);
}

template <Order order, class T, class C>
PYDELTA_INLINE inline void store2_upto(T* p, Pair<C> v, int64_t count, bool around) {
  if (count >= 2 * kLanes<C>) return store2<order>(p, v, around);
  T raw[2 * kLanes<C>];
  store2<order>(raw, v, false);
  if (count > 0) memcpy(p, raw, sizeof(T) * size_t(count));
}

// ---- arithmetic ------------------------------------------------------------------------------

// a where the bit of `minus` is 0, -a where it is 1: exact, through the sign bit. Only the lowest
// kLanes<C> bits count.
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

// The same for a pair: the signs of `a` are the low bits, those of `b` follow.
template <class C>
PYDELTA_INLINE inline Pair<C> flip(Pair<C> v, uint32_t minus) {
  return {flip<C>(v.a, minus), flip<C>(v.b, minus >> kLanes<C>)};
}

// One butterfly stage between lanes: lane i gets v[i] + v[i^h] where bit h of i is clear, v[i^h] - v[i] where
// set.
template <int h, class C>
PYDELTA_INLINE inline Vec<C> lane_stage(Vec<C> v) {
  const auto partner = exchange<h, C>(v, std::make_index_sequence<kLanes<C>>());
  return add_exact_product<C>(partner, v, lane_signs<h, C>());
}

}  // namespace PYDELTA_NAMESPACE
