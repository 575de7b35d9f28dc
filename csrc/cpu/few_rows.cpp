#include "codes/activations.h"

namespace PYDELTA_NAMESPACE {

namespace {

// A few rows times a large matrix, which comes from memory once: a tile of it stays in the first-level cache
// until all rows are done with it, and meanwhile the next tile comes nearer. Sums are fp32.
constexpr int kTall = 4;                               // rows of the matrix whose sums are in registers
constexpr int kTogether = kVectorBytes == 64 ? 4 : 2;  // rows of activations in registers
constexpr int kPair = 2 * kLanes<float>;
constexpr int64_t kDepthTile = 1024, kWidthTile = 512, kBlock = int64_t(1) << 15;
constexpr int kDeep = 8;  // rows of the matrix that are added up in registers

// f(the number of rows, as a constant) for 1 to `most` of them.
template <int most, class F>
PYDELTA_INLINE inline void with_constant(int64_t rows, const F& f) {
  if (rows == most) return f(std::integral_constant<int, most>{});
  if constexpr (most > 1) with_constant<most - 1>(rows, f);
}

// The activations in fp32, in an order that pairs of the matrix's elements are loaded in too; padded with
// zeros.
template <Order order, class T>
const float* widened(const T* x, int64_t rows, int64_t n, int64_t stride) {
  static thread_local Scratch memory;
  float* const to = static_cast<float*>(memory.get(size_t(rows * stride) * sizeof(float)));
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t j = 0; j < stride; j += kPair) {
      const Pair<float> v = load2_upto<order>(x + r * n + j, n - j);
      memcpy(to + r * stride + j, &v, sizeof(v));
    }
  }
  return to;
}

PYDELTA_INLINE inline Pair<float> load_pair(const float* p) { return {load(p), load(p + kLanes<float>)}; }

PYDELTA_INLINE inline void store_pair(float* p, Pair<float> v) {
  write(p, v.a, false);
  write(p + kLanes<float>, v.b, false);
}

// A block of sums to its place, rounded once.
template <Order order, class T>
void emit(const FewRows& p, const float* block, int64_t stride, int64_t first, int64_t width) {
  for (int64_t r = 0; r < p.rows; ++r) {
    T* const to = static_cast<T*>(p.out) + r * p.out_step + first;
    for (int64_t c = 0; c < width; c += kPair) {
      Pair<float> v = load_pair(block + r * stride + c);
      if (p.add) {
        const Pair<float> there = load2_upto<order>(to + c, width - c);
        v.a += there.a, v.b += there.b;
      }
      store2_upto<order>(to + c, v, width - c, false);
    }
  }
}

template <class T>
PYDELTA_INLINE inline void prefetch_pair(const T* p) {
  for (int i = 0; i < kPair; i += 64 / int(sizeof(T))) __builtin_prefetch(p + i, 0, 2);
}

// sums += the products of some rows with kTall rows of the matrix, lane by lane; `ahead`: to prefetch.
template <class T, int rows>
PYDELTA_INLINE inline void multiply(const T* const (&w)[kTall], int64_t n, const float* x, int64_t stride,
                                    Vec<float>* sums, const T* ahead) {
  Vec<float> sum[rows][kTall];
  memcpy(sum, sums, sizeof(sum));
  const auto step = [&](int64_t j, auto load_values) PYDELTA_INLINE {
    prefetch_pair(ahead + j);
    Pair<float> v[kTall];
#pragma GCC unroll 4
    for (int o = 0; o < kTall; ++o) v[o] = load_values(w[o] + j);
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r) {
      const Pair<float> u = load_pair(x + r * stride + j);
#pragma GCC unroll 4
      for (int o = 0; o < kTall; ++o) {
        sum[r][o] = multiply_add(v[o].b, u.b, multiply_add(v[o].a, u.a, sum[r][o]));
      }
    }
  };
  int64_t j = 0;
  for (; j + kPair <= n; j += kPair) {
    step(j, [](const T* from) PYDELTA_INLINE { return load2<order_of<T>>(from); });
  }
  if (j < n) step(j, [=](const T* from) PYDELTA_INLINE { return load2_upto<order_of<T>>(from, n - j); });
  memcpy(sums, sum, sizeof(sum));
}

// The matrix is (width, depth): sums along its rows.
template <class T>
void along(const FewRows& p, const float* x, int64_t stride, int64_t first, int64_t width) {
  static thread_local Scratch memory;
  const int64_t wide = ceil_div(width, kPair) * kPair;
  const size_t lanes = size_t(p.rows) * kTall * kLanes<float>;
  float* const block = static_cast<float*>(memory.get((size_t(p.rows * wide) + lanes) * sizeof(float)));
  auto* const sums = reinterpret_cast<Vec<float>*>(block + p.rows * wide);
  for (int64_t o = 0; o < width; o += kTall) {
    memset(sums, 0, lanes * sizeof(float));
    for (int64_t j = 0; j < p.depth; j += kDepthTile) {
      const T* w[kTall];
      for (int i = 0; i < kTall; ++i) {
        w[i] = static_cast<const T*>(p.w) + (first + least(o + i, width - 1)) * p.step + j;
      }
      const int64_t next = j + kDepthTile < p.depth ? kDepthTile : kTall * p.step - j;
      for (int64_t r = 0; r < p.rows; r += kTogether) {
        with_constant<kTogether>(least(kTogether, p.rows - r), [&](auto rows) PYDELTA_INLINE {
          multiply<T, rows>(w, least(kDepthTile, p.depth - j), x + r * stride + j, stride, sums + r * kTall,
                            w[r / kTogether % kTall] + next);
        });
      }
    }
    for (int64_t r = 0; r < p.rows; ++r) {
      for (int i = 0; i < kTall; ++i) block[r * wide + o + i] = sum_of(sums[r * kTall + i]);
    }
  }
  emit<Order::halves, T>(p, block, wide, first, width);
}

// block += some rows' factors times `deep` rows of the matrix.
template <class T, int rows, int deep>
PYDELTA_INLINE inline void combine(const T* w, int64_t step, const float* x, int64_t stride, int64_t width,
                                   float* block, int64_t wide, const T* ahead) {
  Vec<float> factor[rows][deep];
#pragma GCC unroll 2
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
    for (int o = 0; o < deep; ++o) factor[r][o] = x[r * stride + o] - Vec<float>{};
  }
  const auto at = [&](int64_t c, auto load_values) PYDELTA_INLINE {
    prefetch_pair(ahead + c);
    Pair<float> sum[rows];
#pragma GCC unroll 2
    for (int r = 0; r < rows; ++r) sum[r] = load_pair(block + r * wide + c);
#pragma GCC unroll 8
    for (int o = 0; o < deep; ++o) {
      const Pair<float> v = load_values(w + o * step + c);
#pragma GCC unroll 2
      for (int r = 0; r < rows; ++r) {
        sum[r].a = multiply_add(factor[r][o], v.a, sum[r].a);
        sum[r].b = multiply_add(factor[r][o], v.b, sum[r].b);
      }
    }
#pragma GCC unroll 2
    for (int r = 0; r < rows; ++r) store_pair(block + r * wide + c, sum[r]);
  };
  int64_t c = 0;
  for (; c + kPair <= width; c += kPair) {
    at(c, [](const T* from) PYDELTA_INLINE { return load2<order_of<T>>(from); });
  }
  if (c < width)
    at(c, [=](const T* from) PYDELTA_INLINE { return load2_upto<order_of<T>>(from, width - c); });
}

// The matrix is (depth, width): its rows are added up.
template <class T>
void across(const FewRows& p, const float* x, int64_t stride, int64_t first, int64_t width) {
  static thread_local Scratch memory;
  const int64_t wide = ceil_div(width, kPair) * kPair;
  const size_t bytes = size_t(p.rows * wide) * sizeof(float);
  float* const block = static_cast<float*>(memory.get(bytes));
  memset(block, 0, bytes);
  const auto add_rows = [&](int64_t o, auto deep) PYDELTA_INLINE {
    const T* const w = static_cast<const T*>(p.w) + o * p.step + first;
    for (int64_t r = 0; r < p.rows; r += 2) {
      with_constant<2>(least(2, p.rows - r), [&](auto rows) PYDELTA_INLINE {
        combine<T, rows, deep>(w, p.step, x + r * stride + o, stride, width, block + r * wide, wide,
                               w + (deep + r / 2 % deep) * p.step);
      });
    }
  };
  int64_t o = 0;
  for (; o + kDeep <= p.depth; o += kDeep) add_rows(o, std::integral_constant<int, kDeep>{});
  for (; o < p.depth; ++o) add_rows(o, std::integral_constant<int, 1>{});
  emit<order_of<T>, T>(p, block, wide, first, width);
}

template <class T>
void product(const FewRows& p, int threads) {
  const T* const x = static_cast<const T*>(p.x);
  const int64_t stride = ceil_div(p.depth, kPair) * kPair;
  const float* const wide_x = p.across ? widened<Order::halves>(x, p.rows, p.depth, stride)
                                       : widened<order_of<T>>(x, p.rows, p.depth, stride);
  const int64_t most = kBlock / p.rows > kWidthTile ? kBlock / p.rows : kWidthTile;
  const int64_t each = ceil_div(least(most, ceil_div(p.width, threads)), kPair) * kPair;
  parallel_for(ceil_div(p.width, each), each * p.depth * int64_t(sizeof(T)), threads, [&](int64_t i) {
    const int64_t width = least(each, p.width - i * each);
    (p.across ? across<T> : along<T>)(p, wide_x, stride, i * each, width);
  });
}

}  // namespace

void few_rows(const FewRows& p, int threads) {
  if (p.rows * p.width == 0) return;
  visit_of<float>(p.dtype, [&](auto t) { product<decltype(t)>(p, threads); });
}

}  // namespace PYDELTA_NAMESPACE
