// What the products of activations with low-bit codes share: the activations of a call, signed and in fp32.
#pragma once
#include "levels.h"

namespace PYDELTA_NAMESPACE {

// a * b + c, in one rounding where the instruction set has it: products are held to a tolerance, not to bits.
PYDELTA_INLINE inline Vec<float> multiply_add(Vec<float> a, Vec<float> b, Vec<float> c) {
#if defined(__AVX512F__)
  return (Vec<float>)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
  return (Vec<float>)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}

// The sum of a register's lanes, by halving.
PYDELTA_INLINE inline float sum_of(Vec<float> v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)v);
#else
  float lanes[kLanes<float>];
  memcpy(lanes, &v, sizeof(v));
  for (int half = kLanes<float> / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
#endif
}

// Columns are padded with zeros to whole words of 32 codes.
constexpr int64_t kWordColumns = 32;

struct Rows {
  const float* x;  // rows x stride
  int64_t count, stride;
};

// One row with its model's signs; a null `key` stands for none.
template <class T>
void sign_row(const T* x, float* out, int64_t n, int64_t stride, const Key* key) {
  constexpr int pair = 2 * kLanes<float>;
  for (int64_t j = 0; j < stride; j += kWordColumns) {
    const uint32_t minus = key ? sign_word(*key, uint64_t(j / kWordColumns)) : 0;
    for (int i = 0; i < kWordColumns; i += pair) {
      const Pair<float> v = load2_upto<Order::halves>(x + j + i, n - j - i);
      store2<Order::halves>(out + j + i, flip<float>(v, minus >> i), false);
    }
  }
}

// The activations of a call; they stay until the thread's next call.
template <class T>
Rows signed_rows(const Activations& a, int64_t n, int threads) {
  static thread_local Scratch memory;
  const int64_t stride = ceil_div(n, kWordColumns) * kWordColumns;
  float* const to = static_cast<float*>(memory.get(size_t(a.rows * stride) * sizeof(float)));
  parallel_for(a.rows, stride * int64_t(sizeof(T) + sizeof(float)), threads, [&](int64_t r) {
    const int64_t k = a.model[r];
    const Key key{a.seeds ? a.seeds[k] : 0, a.seeds ? a.streams[k] : 0};
    sign_row(static_cast<const T*>(a.x) + r * n, to + r * stride, n, stride, a.seeds ? &key : nullptr);
  });
  return {to, a.rows, stride};
}

// out + value, rounded to the output's type once.
template <class T>
inline void add_to(T* out, float value) {
  T raw[2 * kLanes<float>] = {*out};
  const Pair<float> v = load2<Order::halves>(raw);
  store2<Order::halves>(raw, Pair<float>{v.a + value, v.b}, false);
  *out = raw[0];
}

}  // namespace PYDELTA_NAMESPACE
