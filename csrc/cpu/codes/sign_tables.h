// One-bit products by tables: the 16 signed sums of four neighbouring activations lie in one register, and
// the four codes of a weight choose among them. A lookup and an addition do the work of four multiply-adds,
// for 16 output features at a time. (The idea of tables is T-MAC's and LUT-GEMM's; theirs are quantised.)
#pragma once
#include "activations.h"

#if defined(__AVX512F__)
namespace PYDELTA_NAMESPACE {

constexpr int kOutputs = 16;                   // lanes
constexpr int kBlockWords = 8;                 // 256 columns a block: eight rows' tables fill half of the L1
constexpr int kBlockTables = 8 * kBlockWords;  // four columns each
constexpr int kGroup = 16;                     // blocks of outputs, and the padding of their number

// Entry c of a table: x[0] .. x[3], minus where c's bit is set.
PYDELTA_INLINE inline void make_tables(const float* x, int64_t words, float* tables) {
  const auto minus = [](int bit) PYDELTA_INLINE { return (lane_index<float>() >> bit) << 31; };
  for (int64_t t = 0; t < words * 8; ++t) {
    const auto signed_value = [&](int i) PYDELTA_INLINE {
      return bit_cast<Vec<float>>(bit_cast<VecBits<float>>(broadcast(x[4 * t + i])) ^ minus(i));
    };
    const Vec<float> sum = (signed_value(0) + signed_value(1)) + (signed_value(2) + signed_value(3));
    write(tables + t * kOutputs, sum, false);
  }
}

// 32 codes of each of 16 rows, one row a lane: words first .. first + words of all rows of q, and zeros for
// those that fill a group of blocks.
inline void gather_codes(const Codes& q, int64_t first, int64_t words, uint32_t* to) {
  const int64_t bytes = ceil_div(q.n, 8), blocks = ceil_div(q.rows, kOutputs * kGroup) * kGroup;
  const int64_t whole = least(words, bytes / 4 - first);
  for (int64_t block = 0; block < blocks; ++block) {
    const uint8_t* const from = q.codes + block * kOutputs * bytes + 4 * first;
    const int64_t rows = least(kOutputs, q.rows - block * kOutputs);
    uint32_t* const into = to + block * kBlockWords * kOutputs;
    int64_t w = 0;
    if (rows == kOutputs && bytes < (1 << 24)) {
      const VecBits<float> places = lane_index<float>() * uint32_t(bytes);
      for (; w < whole; ++w) {
        _mm512_storeu_si512(into + w * kOutputs, _mm512_i32gather_epi32((__m512i)places, from + 4 * w, 1));
      }
    }
    for (; w < words; ++w) {
      for (int lane = 0; lane < kOutputs; ++lane) {
        const int64_t left = lane < rows ? least(4, bytes - 4 * (first + w)) : 0;
        uint32_t word = 0;
        for (int64_t i = 0; i < left; ++i) word |= uint32_t(from[lane * bytes + 4 * w + i]) << (8 * i);
        into[w * kOutputs + lane] = word;
      }
    }
  }
}

// Adds the products of `rows` activations with `blocks` x 16 outputs over the block's columns to the sums.
template <int rows, int blocks>
PYDELTA_INLINE inline void look_up(const float* tables, const uint32_t* codes, int64_t words, float* sums,
                                   int64_t stride) {
  Vec<float> sum[rows][blocks];
  for (int r = 0; r < rows; ++r) {
    for (int b = 0; b < blocks; ++b) sum[r][b] = load(sums + r * stride + b * kOutputs);
  }
  for (int64_t w = 0; w < words; ++w) {
    VecBits<float> index[blocks];
    for (int b = 0; b < blocks; ++b) {
      memcpy(&index[b], codes + (b * kBlockWords + w) * kOutputs, sizeof(index[b]));
    }
    // A lookup reads the lowest four bits. Not unrolled: the sums would not stay in registers.
#pragma GCC unroll 1
    for (int t = 0; t < 8; ++t) {
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r) {
        const float* const table = tables + (r * kBlockTables + w * 8 + t) * kOutputs;
#pragma GCC unroll 16
        for (int b = 0; b < blocks; ++b) sum[r][b] += lookup<kOutputs>(table, index[b]);
      }
#pragma GCC unroll 16
      for (int b = 0; b < blocks; ++b) index[b] >>= 4;
    }
  }
  for (int r = 0; r < rows; ++r) {
    for (int b = 0; b < blocks; ++b) write(sums + r * stride + b * kOutputs, sum[r][b], false);
  }
}

template <int rows, int blocks>
void add_rows(const Rows& x, int64_t first, int64_t column, int64_t words, const uint32_t* codes,
              int64_t all_blocks, float* sums) {
  alignas(kVectorBytes) float tables[rows * kBlockTables * kOutputs];
  for (int r = 0; r < rows; ++r) {
    make_tables(x.x + (first + r) * x.stride + column, words, tables + r * kBlockTables * kOutputs);
  }
  const int64_t stride = all_blocks * kOutputs;
  for (int64_t b = 0; b < all_blocks; b += blocks) {
    look_up<rows, blocks>(tables, codes + b * kBlockWords * kOutputs, words,
                          sums + first * stride + b * kOutputs, stride);
  }
}

// out[r, o] += lam_r scale_o sum_j +-x[r, j] for the rows of q, whose first is column `at` of the output.
template <class T>
void table_product(const Rows& x, const Activations& a, const Codes& q, T* out, int64_t at, int64_t width) {
  static thread_local Scratch code_memory, sum_memory;
  const int64_t blocks = ceil_div(q.rows, kOutputs * kGroup) * kGroup, stride = blocks * kOutputs;
  auto* codes = static_cast<uint32_t*>(code_memory.get(size_t(blocks) * kBlockWords * kVectorBytes));
  auto* sums = static_cast<float*>(sum_memory.get(size_t(x.count * stride) * sizeof(float)));
  memset(sums, 0, size_t(x.count * stride) * sizeof(float));
  for (int64_t column = 0; column < x.stride; column += kBlockWords * kWordColumns) {
    const int64_t words = least(kBlockWords, (x.stride - column) / kWordColumns);
    gather_codes(q, column / kWordColumns, words, codes);
    for (int64_t r = 0; r < x.count;) {
      const int64_t left = x.count - r;
      const int rows = left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
      if (rows == 8) add_rows<8, 2>(x, r, column, words, codes, blocks, sums);
      if (rows == 4) add_rows<4, 4>(x, r, column, words, codes, blocks, sums);
      if (rows == 2) add_rows<2, 8>(x, r, column, words, codes, blocks, sums);
      if (rows == 1) add_rows<1, 16>(x, r, column, words, codes, blocks, sums);
      r += rows;
    }
  }
  for (int64_t r = 0; r < x.count; ++r) {
    const Vec<float> lam = broadcast(a.lams[a.model[r]]);
    T* const to = out + r * width + at;
    const float* const sum = sums + r * stride;
    for (int64_t o = 0; o < q.rows; o += 2 * kOutputs) {
      const int64_t left = q.rows - o;
      const Pair<float> y = load2_upto<Order::halves>(to + o, left);
      const Pair<float> scale = load2_upto<Order::halves>(q.scales + o, left);
      const Vec<float> second = left > kOutputs ? load(sum + o + kOutputs) : broadcast(0.0f);
      const Pair<float> all{y.a + load(sum + o) * (scale.a * lam), y.b + second * (scale.b * lam)};
      store2_upto<Order::halves>(to + o, all, left, false);
    }
  }
}

}  // namespace PYDELTA_NAMESPACE
#endif
