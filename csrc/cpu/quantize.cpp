// Low-bit codes: the root mean square of a group, then the index of each element's level, then the scale.
#include <cmath>

#include "codes/levels.h"
#include "simd/wide.h"
#include "walk/parallel.h"

namespace PYDELTA_NAMESPACE {

namespace {

// Sums run in so many interleaved lanes, on every backend.
constexpr int kSumLanes = 64;

// Elements as fp32.
template <class T>
PYDELTA_INLINE inline Pair<float> values(const T* p) {
  if constexpr (sizeof(T) == 8) {
    float x[2 * kLanes<float>];
    for (int i = 0; i < 2 * kLanes<float>; ++i) x[i] = float(p[i]);
    return load2<Order::halves>(x);
  } else {
    return load2<Order::halves>(p);
  }
}

PYDELTA_INLINE inline Vec<float> magnitude(Vec<float> v) {
  return bit_cast<Vec<float>>(bit_cast<VecBits<float>>(v) & ~kSignBit<float>);
}

// sum + a * b: a product of two fp32 is exact in fp64, fused or not.
PYDELTA_INLINE inline void add_products(Vec<double>* sum, const Wide& a, const Wide& b) {
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) sum[i] = add_exact_product<double>(sum[i], a.v[i], b.v[i]);
}

PYDELTA_INLINE inline void add_magnitudes(Vec<double>* sum, const Wide& a) {
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    sum[i] += bit_cast<Vec<double>>(bit_cast<VecBits<double>>(a.v[i]) & ~kSignBit<double>);
  }
}

// Lane l takes lane l + 32, then l + 16, and so on.
PYDELTA_INLINE inline double fold(Vec<double> (&sum)[kSumLanes / kLanes<double>]) {
#pragma GCC unroll 8
  for (int half = kSumLanes / kLanes<double> / 2; half > 0; half /= 2) {
#pragma GCC unroll 16
    for (int i = 0; i < half; ++i) sum[i] += sum[i + half];
  }
  double lane[kLanes<double>];
  memcpy(lane, sum, sizeof(lane));
#pragma GCC unroll 4
  for (int half = kLanes<double> / 2; half > 0; half /= 2) {
#pragma GCC unroll 4
    for (int i = 0; i < half; ++i) lane[i] += lane[i + half];
  }
  return lane[0];
}

// Sums along `count` elements: add(v, i, sum, other) adds what the pair v of elements from the i-th on gives
// to four registers of each sum; `other` is there if sums is 2. Zeros follow the last element.
template <int sums, class T, class Add>
PYDELTA_INLINE inline void sum_lanes(const T* x, int64_t count, double (&total)[sums], const Add& add) {
  constexpr int lanes = kLanes<double>, pair = 2 * kLanes<float>;
  constexpr int width = kVectorBytes == 64 ? kSumLanes : 8 / sums * lanes;  // lanes that registers hold
  const int64_t whole = count / kSumLanes * kSumLanes;
  T rest[kSumLanes]{};
  if (count > whole) memcpy(rest, x + whole, size_t(count - whole) * sizeof(T));
  Vec<double> lane[sums][kSumLanes / lanes];
#pragma GCC unroll 1
  for (int start = 0; start < kSumLanes; start += width) {
    Vec<double> sum[sums][width / lanes]{};
    for (int64_t i = 0; i < count; i += kSumLanes) {
      const T* const from = (i < whole ? x + i : rest) + start;
#pragma GCC unroll 4
      for (int k = 0; k < width; k += pair) {
        add(values(from + k), i + start + k, sum[0] + k / lanes, sum[sums - 1] + k / lanes);
      }
    }
    for (int s = 0; s < sums; ++s) memcpy(lane[s] + start / lanes, sum[s], sizeof(sum[s]));
  }
  for (int s = 0; s < sums; ++s) total[s] = fold(lane[s]);
}

inline float scale_of(double square, double projection) {
  return square == 0 ? 0.0f : float(square / projection);
}

// One bit: a group's scale needs no codes.
template <class T>
float scale_of_signs(const T* x, int64_t count) {
  double total[2];
  sum_lanes(x, count, total,
            [](Pair<float> v, int64_t, Vec<double>* squares, Vec<double>* magnitudes) PYDELTA_INLINE {
              const Wide wide(v);
              add_products(squares, wide, wide);
              add_magnitudes(magnitudes, wide);
            });
  return scale_of(total[0], total[1]);
}

// The tables of a quantiser. The thresholds are a binary search tree: those of depth d start at 2^d.
template <int bits>
struct Quantiser {
  static constexpr int count = 1 << (bits - 1), room = count + kLanes<float>;
  alignas(kVectorBytes) float levels[room]{}, tree[room]{};

  explicit Quantiser(const Codes& q) {
    memcpy(levels, q.levels, count * sizeof(float));
    for (int depth = 0; depth < bits - 1; ++depth) {
      const int step = count >> depth;
      for (int i = 0; i < 1 << depth; ++i) tree[(1 << depth) + i] = q.thresholds[i * step + step / 2 - 1];
    }
  }
};

// How many thresholds each magnitude exceeds.
template <int bits>
PYDELTA_INLINE inline VecBits<float> index_of(Vec<float> x, const float* tree) {
  const auto below = [&](VecBits<float> index, Vec<float> threshold)
                         PYDELTA_INLINE { return index + index - bit_cast<VecBits<float>>(x > threshold); };
  VecBits<float> index = below(VecBits<float>{}, broadcast(tree[1]));
  if constexpr (bits > 2) {
    index = below(index, lookup<2>(tree + 2, index));
    index = below(index, lookup<4>(tree + 4, index));
  }
  if constexpr (bits > 4) {
    index = below(index, lookup<8>(tree + 8, index));
    index = below(index, lookup<16>(tree + 16, index));
    index = below(index, lookup<32>(tree + 32, index));
    index = below(index, lookup<64>(tree + 64, index));
  }
  return index;
}

// A group's codes, one to a byte, and its scale. Up to 64 bytes after the codes are overwritten.
template <int bits, class T>
float code_group(const T* x, int64_t count, const Quantiser<bits>& quantiser, uint8_t* codes) {
  double square[1], projection[1];
  sum_lanes(x, count, square, [](Pair<float> v, int64_t, Vec<double>* sum, Vec<double>*) PYDELTA_INLINE {
    const Wide wide(v);
    add_products(sum, wide, wide);
  });
  const float rms = float(std::sqrt(square[0] / double(count)));
  alignas(kVectorBytes) float tree[Quantiser<bits>::room];
  for (int i = 0; i < Quantiser<bits>::room; ++i) tree[i] = quantiser.tree[i] * rms;
  sum_lanes(
      x, count, projection, [&](Pair<float> v, int64_t i, Vec<double>* sum, Vec<double>*) PYDELTA_INLINE {
        const Pair<float> x{magnitude(v.a), magnitude(v.b)};
        const VecBits<float> a = index_of<bits>(x.a, tree), b = index_of<bits>(x.b, tree);
        const auto sign = [](Vec<float> v) PYDELTA_INLINE {
          return bit_cast<VecBits<float>>(v) >> (32 - bits) & (1u << (bits - 1));
        };
        write_bytes(codes + i, a | sign(v.a));
        write_bytes(codes + i + kLanes<float>, b | sign(v.b));
        constexpr int levels = Quantiser<bits>::count;
        const Pair<float> level{lookup<levels>(quantiser.levels, a), lookup<levels>(quantiser.levels, b)};
        add_products(sum, Wide(x), Wide(level));
      });
  return scale_of(square[0], projection[0]);
}

// n codes from one to a byte into their bits; the bytes from codes[n] on are zero.
template <int bits>
void pack(const uint8_t* __restrict codes, int64_t n, uint8_t* __restrict out) {
  using Word = std::conditional_t<bits == 2, uint32_t, std::conditional_t<bits == 4, uint16_t, uint8_t>>;
  const int64_t bytes = ceil_div(n * bits, 8);
  for (int64_t i = 0; i < bytes; ++i) {
    Word word;
    memcpy(&word, codes + i * int64_t(sizeof(Word)), sizeof(word));
    uint32_t packed = word;
    for (int k = 1; k < 8 / bits; ++k) packed |= uint32_t(word) >> k * (8 - bits);
    out[i] = uint8_t(packed);
  }
}

// The sign bits of a pair.
template <class T>
PYDELTA_INLINE inline uint32_t pair_signs(const T* x) {
#if defined(__AVX512BW__)
  if constexpr (sizeof(T) == 2) return _mm512_movepi16_mask(_mm512_loadu_si512(x));
#endif
  const Pair<float> v = values(x);
  return signs_of(v.a) | signs_of(v.b) << kLanes<float>;
}

template <class T>
void pack_signs(const T* x, int64_t n, uint8_t* out) {
  constexpr int pair = 2 * kLanes<float>;
  for (int64_t i = 0; i < n; i += pair) {
    T rest[pair]{};
    const bool whole = n - i >= pair;
    if (!whole) memcpy(rest, x + i, size_t(n - i) * sizeof(T));
    const uint32_t signs = pair_signs(whole ? x + i : rest);
    if (whole) {
      memcpy(out + i / 8, &signs, pair / 8);
    } else {
      memcpy(out + i / 8, &signs, size_t(ceil_div(n - i, 8)));
    }
  }
}

template <int bits, class T>
void quantize_row(const T* x, int64_t n, int64_t group, const Quantiser<bits>& quantiser, uint8_t* codes,
                  float* scales) {
  if constexpr (bits == 1) {
    for (int64_t i = 0; i < n; i += group) scales[i / group] = scale_of_signs(x + i, group);
    pack_signs(x, n, codes);
  } else {
    static thread_local Scratch memory;
    uint8_t* const bytes = static_cast<uint8_t*>(memory.get(size_t(n + kSumLanes)));
    for (int64_t i = 0; i < n; i += group) {
      scales[i / group] = code_group<bits>(x + i, group, quantiser, bytes + i);
    }
    memset(bytes + n, 0, kSumLanes);
    pack<bits>(bytes, n, codes);
  }
}

template <int bits, class T>
void quantize_rows(const T* x, const Codes& q, int threads) {
  const Quantiser<bits> quantiser(q);
  int64_t rows = q.rows, n = q.n;
  if (q.group * bits % 8 == 0) {  // groups are whole bytes: as good as rows
    rows *= n / q.group;
    n = q.group;
  }
  const int64_t bytes = ceil_div(n * bits, 8), groups = n / q.group;
  parallel_for(rows, n * int64_t(sizeof(T)), threads, [&](int64_t row) {
    quantize_row(x + row * n, n, q.group, quantiser, q.codes + row * bytes, q.scales + row * groups);
  });
}

}  // namespace

void quantize(const void* x, int dtype, const Codes& q, int threads) {
  if (q.rows * q.n == 0) return;
  visit(dtype, [&](auto t) {
    visit_bits(q.bits, [&](auto bits) {
      quantize_rows<decltype(bits)::value>(static_cast<const decltype(t)*>(x), q, threads);
    });
  });
}

}  // namespace PYDELTA_NAMESPACE
