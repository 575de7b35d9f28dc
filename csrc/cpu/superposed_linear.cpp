#include "codes/activations.h"
#include "codes/sign_tables.h"

namespace PYDELTA_NAMESPACE {

void dequantize(const Codes& codes, void* out, int out_dtype, int threads);

namespace {

constexpr int kTall = 4;  // output features, and activations, whose sums are in registers together

// Sums of kTall rows of values with `rows` activations.
template <int rows>
PYDELTA_INLINE inline void multiply(const float* values, int64_t n, const float* x, int64_t stride,
                                    float (&found)[kTall][kTall]) {
  Vec<float> sum[rows][kTall]{};
  const auto step = [&](int64_t j, auto load_values) PYDELTA_INLINE {
    Vec<float> w[kTall];
#pragma GCC unroll 4
    for (int o = 0; o < kTall; ++o) w[o] = load_values(values + o * n + j);
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r) {
      const Vec<float> v = load(x + r * stride + j);
#pragma GCC unroll 4
      for (int o = 0; o < kTall; ++o) sum[r][o] = multiply_add(v, w[o], sum[r][o]);
    }
  };
  int64_t j = 0;
  for (; j + kLanes<float> <= n; j += kLanes<float>) {
    step(j, [](const float* p) PYDELTA_INLINE { return load(p); });
  }
  if (j < n) step(j, [=](const float* p) PYDELTA_INLINE { return load_upto(p, n - j); });
  for (int r = 0; r < rows; ++r) {
    for (int o = 0; o < kTall; ++o) found[r][o] = sum_of(sum[r][o]);
  }
}

// A few rows of values in the first-level cache, times all activations.
template <class T>
void expanded_product(const Rows& x, const Activations& a, const Codes& q, T* out, int64_t at,
                      int64_t width) {
  static thread_local Scratch memory;
  float* const values = static_cast<float*>(memory.get(size_t(kTall * q.n) * sizeof(float)));
  for (int64_t o = 0; o < q.rows; o += kTall) {
    const int64_t tall = least(kTall, q.rows - o);
    if (tall < kTall) memset(values, 0, size_t(kTall * q.n) * sizeof(float));
    dequantize(rows_of(q, o, tall), values, int(Dtype::f32), 1);
    for (int64_t r = 0; r < x.count; r += kTall) {
      float found[kTall][kTall];
      const float* const from = x.x + r * x.stride;
      const int64_t rows = least(kTall, x.count - r);
      if (rows == 4) multiply<4>(values, q.n, from, x.stride, found);
      if (rows == 3) multiply<3>(values, q.n, from, x.stride, found);
      if (rows == 2) multiply<2>(values, q.n, from, x.stride, found);
      if (rows == 1) multiply<1>(values, q.n, from, x.stride, found);
      for (int64_t i = 0; i < rows; ++i) {
        const float lam = a.lams[a.model[r + i]];
        for (int64_t k = 0; k < tall; ++k) add_to(out + (r + i) * width + at + o + k, lam * found[i][k]);
      }
    }
  }
}

template <class T>
void product(const Activations& a, const Codes& q, T* out, int threads) {
  const Rows x = signed_rows<T>(a, q.n, threads);
  // Work per output: its codes and what it costs to multiply them.
  const int64_t cost = q.n * (1 + a.rows / 4);
  const int64_t pieces = q.rows * cost <= kGrainBytes ? 1 : least(threads, ceil_div(q.rows, 32));
  const int64_t each = ceil_div(ceil_div(q.rows, pieces), 32) * 32;
  parallel_for(ceil_div(q.rows, each), each * cost, threads, [&](int64_t i) {
    const int64_t first = i * each;
    const Codes part = rows_of(q, first, least(each, q.rows - first));
#if defined(__AVX512F__)
    if (q.bits == 1 && q.group == q.n) return table_product(x, a, part, out, first, q.rows);
#endif
    expanded_product(x, a, part, out, first, q.rows);
  });
}

}  // namespace

void superposed_linear(const Activations& a, const Codes& q, void* out, int dtype, int threads) {
  if (a.rows * q.rows * q.n == 0) return;
  visit_of<float>(dtype, [&](auto t) { product(a, q, static_cast<decltype(t)*>(out), threads); });
}

}  // namespace PYDELTA_NAMESPACE
