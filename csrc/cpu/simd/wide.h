// Pairs of vectors of fp32 in fp64.
#pragma once
#include "simd.h"

namespace PYDELTA_NAMESPACE {

// The elements of a pair in fp64, in order.
struct Wide {
  Vec<double> v[4];

  PYDELTA_INLINE explicit Wide(Pair<float> p) {
#if defined(__AVX512DQ__)
    v[0] = (Vec<double>)_mm512_cvtps_pd(_mm512_castps512_ps256((__m512)p.a));
    v[1] = (Vec<double>)_mm512_cvtps_pd(_mm512_extractf32x8_ps((__m512)p.a, 1));
    v[2] = (Vec<double>)_mm512_cvtps_pd(_mm512_castps512_ps256((__m512)p.b));
    v[3] = (Vec<double>)_mm512_cvtps_pd(_mm512_extractf32x8_ps((__m512)p.b, 1));
#elif defined(__AVX2__)
    v[0] = (Vec<double>)_mm256_cvtps_pd(_mm256_castps256_ps128((__m256)p.a));
    v[1] = (Vec<double>)_mm256_cvtps_pd(_mm256_extractf128_ps((__m256)p.a, 1));
    v[2] = (Vec<double>)_mm256_cvtps_pd(_mm256_castps256_ps128((__m256)p.b));
    v[3] = (Vec<double>)_mm256_cvtps_pd(_mm256_extractf128_ps((__m256)p.b, 1));
#else
    for (int i = 0; i < 2 * kLanes<double>; ++i) {
      v[i / kLanes<double>][i % kLanes<double>] = p.a[i];
      v[2 + i / kLanes<double>][i % kLanes<double>] = p.b[i];
    }
#endif
  }
};

}  // namespace PYDELTA_NAMESPACE
