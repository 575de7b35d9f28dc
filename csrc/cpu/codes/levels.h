// What the kernels of low-bit codes share: looking up levels, and the bits of codes.
#pragma once
#include "../kernels.h"
#include "../walk/walk.h"

namespace PYDELTA_NAMESPACE {

// The codes of some of the rows.
inline Codes rows_of(Codes q, int64_t first, int64_t count) {
  q.codes += first * ceil_div(q.n * q.bits, 8);
  q.scales += first * (q.n / q.group);
  q.rows = count;
  return q;
}

// visit_bits(bits, [&](auto b) { constexpr int bits = decltype(b)::value; ... }).
template <class Body>
void visit_bits(int bits, const Body& body) {
  switch (bits) {
    case 1:
      return body(std::integral_constant<int, 1>{});
    case 2:
      return body(std::integral_constant<int, 2>{});
    case 4:
      return body(std::integral_constant<int, 4>{});
    case 8:
      return body(std::integral_constant<int, 8>{});
  }
}

// table[index mod count] in each lane, count a power of two; the table may be read up to a register's length.
template <int count>
PYDELTA_INLINE inline Vec<float> lookup(const float* table, VecBits<float> index) {
#if defined(__AVX512F__)
  const auto i = (__m512i)(count < 16 ? index & (count - 1) : index);
  if constexpr (count <= 16) {
    return (Vec<float>)_mm512_permutexvar_ps(i, _mm512_loadu_ps(table));
  } else if constexpr (count == 32) {
    return (Vec<float>)_mm512_permutex2var_ps(_mm512_loadu_ps(table), i, _mm512_loadu_ps(table + 16));
  } else {
    const auto upper = _mm512_test_epi32_mask(i, _mm512_set1_epi32(count / 2));
    return (Vec<float>)_mm512_mask_blend_ps(upper, (__m512)lookup<count / 2>(table, index),
                                            (__m512)lookup<count / 2>(table + count / 2, index));
  }
#elif defined(__AVX2__)
  const auto i = (__m256i)(count == 8 ? index : index & (count - 1));
  if constexpr (count <= 8) return (Vec<float>)_mm256_permutevar8x32_ps(_mm256_loadu_ps(table), i);
  return (Vec<float>)_mm256_i32gather_ps(table, i, sizeof(float));
#else
  Vec<float> found;
  for (int i = 0; i < kLanes<float>; ++i) found[i] = table[index[i] & (count - 1)];
  return found;
#endif
}

// The lowest byte of each lane.
PYDELTA_INLINE inline void write_bytes(uint8_t* out, VecBits<float> lanes) {
#if defined(__AVX512F__)
  _mm_storeu_si128((__m128i*)out, _mm512_cvtepi32_epi8((__m512i)lanes));
#else
  uint8_t bytes[kLanes<float>];
  for (int i = 0; i < kLanes<float>; ++i) bytes[i] = uint8_t(lanes[i]);
  memcpy(out, bytes, sizeof(bytes));
#endif
}

// The sign bits of the lanes, in the low bits.
PYDELTA_INLINE inline uint32_t signs_of(Vec<float> v) {
#if defined(__AVX512DQ__)
  return _mm512_movepi32_mask((__m512i)v);
#elif defined(__AVX2__)
  return uint32_t(_mm256_movemask_ps((__m256)v));
#elif defined(__SSE2__)
  return uint32_t(_mm_movemask_ps((__m128)v));
#else
  uint32_t signs = 0;
  for (int i = 0; i < kLanes<float>; ++i) signs |= (bit_cast<VecBits<float> >(v)[i] >> 31) << i;
  return signs;
#endif
}

}  // namespace PYDELTA_NAMESPACE
