// Rounding registers of fp32 to 16 bits: to nearest even, once.
#pragma once
#include "vec.h"

namespace PYDELTA_NAMESPACE {

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

#if defined(__AVX512BW__)
// What join_bf16 takes from memory: the compiler would put it together anew for every result.
template <Order order>
struct JoinTable {
  alignas(kVectorBytes) uint16_t upper[kWords]{}, lower[kWords]{}, one[kWords]{}, half[kWords]{};
  constexpr JoinTable() {
    for (int i = 0; i < kWords; ++i) {
      lower[i] = uint16_t(2 * (order == Order::halves ? i : i / 2 + i % 2 * kLanes<float>));
      upper[i] = uint16_t(lower[i] + 1);
      one[i] = 1;
      half[i] = 0x8000u;
    }
  }
};
template <Order order>
constexpr JoinTable<order> kJoin;
#endif

template <Order order>
PYDELTA_INLINE inline Words join_bf16(Pair<float> v) {
#if defined(__AVX512BW__)
  // One comparison looks for NaN in both; there hardly ever is one.
  if (__builtin_expect(_mm512_cmp_ps_mask((__m512)v.a, (__m512)v.b, _CMP_UNORD_Q) == 0, 1)) {
    const JoinTable<order>* table = &kJoin<order>;
    asm("" : "+r"(table));
    const __m512i one = _mm512_load_si512(table->one), half = _mm512_load_si512(table->half);
    const auto a = (__m512i)v.a, b = (__m512i)v.b;
    const __m512i upper = _mm512_permutex2var_epi16(a, _mm512_load_si512(table->upper), b);
    const __m512i lower = _mm512_permutex2var_epi16(a, _mm512_load_si512(table->lower), b);
    // Up from half on where the upper word is odd, beyond half where it is even: lower | (upper & one).
    const __m512i beyond = _mm512_ternarylogic_epi32(lower, upper, one, 0xf8);
    return (Words)_mm512_mask_add_epi16(upper, _mm512_cmpgt_epu16_mask(beyond, half), upper, one);
  }
#endif
  if constexpr (order == Order::halves) v = unzip<float>(v, std::make_index_sequence<kLanes<float>>());
  return (Words)((round_to_bf16_or_nan(v.a) >> 16) | (round_to_bf16_or_nan(v.b) & 0xffff0000u));
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

}  // namespace PYDELTA_NAMESPACE
