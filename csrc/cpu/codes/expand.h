// From packed codes to values, in pieces of groups.
#pragma once
#include "levels.h"

namespace PYDELTA_NAMESPACE {

// Where a piece of a group lies: its first element in the tensor and in its row, its length, its codes from
// the first bit of a byte on, and its scale.
struct Piece {
  int64_t offset, j, count;
  const uint8_t* codes;
  float scale;
};

// `count` bits from the bit `first` on, moved to the start of a byte.
inline void move_bits(const uint8_t* from, int64_t first, int64_t count, uint8_t* to) {
  const int shift = int(first % 8);
  const int64_t last = (first + count - 1) / 8;
  for (int64_t i = first / 8; i <= last; ++i) {
    const uint32_t next = i < last ? from[i + 1] : 0;
    to[i - first / 8] = uint8_t((from[i] | next << 8) >> shift);
  }
}

// body(piece) for pieces that cover the tensor; bytes: memory traffic per element; around: whether results
// are written around the cache.
template <class Body>
void for_pieces(const Codes& q, int64_t bytes, bool around, int threads, const Body& body) {
  if (q.rows * q.n == 0) return;
  const int64_t groups = q.n / q.group, all = q.rows * groups, row_bytes = ceil_div(q.n * q.bits, 8);
  const int64_t together = q.group < kTile ? kTile / q.group : 1, pieces = ceil_div(q.group, kTile);
  const auto one = [&](int64_t group, int64_t start) {
    const int64_t row = group / groups, j = group % groups * q.group + start;
    const int64_t count = least(kTile, q.group - start);
    const uint8_t* codes = q.codes + row * row_bytes + j * q.bits / 8;
    uint8_t moved[kTile + 1];
    if (const int64_t shift = j * q.bits % 8) {
      move_bits(codes, shift, count * q.bits, moved);
      codes = moved;
    }
    body(Piece{row * q.n + j, j, count, codes, q.scales[group]});
  };
  parallel_for(ceil_div(all, together) * pieces, together * least(q.group, kTile) * bytes, threads,
               [&](int64_t i) {
                 const int64_t first = i / pieces * together, end = least(first + together, all);
                 for (int64_t group = first; group < end; ++group) one(group, i % pieces * kTile);
                 if (around) write_fence();
               });
}

// What a group's codes stand for, first those without a sign.
template <int bits, class C>
struct Values {
  static constexpr int count = 1 << (bits - 1);
  // Whether one register holds the values of all codes, and so those of codes with others above them.
  static constexpr bool in_register = bits > 1 && 2 * count <= kLanes<C>;
  static constexpr int room = count > kLanes<C> ? count : kLanes<C>;
  alignas(kVectorBytes) C value[room];

  // scale * level in fp32, times lam in C.
  PYDELTA_INLINE Values(const float* levels, float scale, C lam) {
    for (int i = 0; i < count; ++i) value[i] = C(levels[i] * scale) * lam;
    if constexpr (in_register) {
      for (int i = count; i < room; ++i) value[i] = -value[i - count];
    }
  }
};

// The values of the elements i, i + 1, ... of a piece, `left` of them, with the signs `minus` beside their
// own.
template <int bits, class C>
PYDELTA_INLINE inline Pair<C> expand_upto(const Values<bits, C>& values, const uint8_t* codes, int64_t i,
                                          int64_t left, uint32_t minus) {
  C found[2 * kLanes<C>]{};
  const int count = int(least(left, 2 * kLanes<C>));
  for (int k = 0; k < count; ++k) {
    const int64_t bit = (i + k) * bits;
    const uint32_t code = uint32_t(codes[bit / 8]) >> (bit % 8);
    found[k] = values.value[code & (Values<bits, C>::count - 1)];
    minus ^= (code >> (bits - 1) & 1) << k;
  }
  return flip<C>(load2<Order::halves>(found), minus);
}

#if defined(__AVX2__)
// The codes of a register's elements in the low bits of its lanes; other codes may lie above.
template <int bits>
PYDELTA_INLINE inline VecBits<float> codes_of(const uint8_t* codes) {
  if constexpr (bits == 8) {
#if defined(__AVX512F__)
    return (VecBits<float>)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)codes));
#else
    return (VecBits<float>)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)codes));
#endif
  } else {
    constexpr int bytes = kLanes<float> * bits / 8;
    uint32_t words[2]{};
    memcpy(words, codes, bytes);
    auto all = VecBits<float>{} + words[0];
#if defined(__AVX512F__)
    if (bytes > 4) all = (VecBits<float>)_mm512_mask_set1_epi32((__m512i)all, 0xff00, int(words[1]));
#endif
    return all >> (lane_index<float>() * bits & 31);
  }
}

template <int bits>
PYDELTA_INLINE inline Vec<float> expand(const Values<bits, float>& values, const uint8_t* codes) {
  const VecBits<float> code = codes_of<bits>(codes);
  if constexpr (Values<bits, float>::in_register) return lookup<kLanes<float>>(values.value, code);
  const auto found = bit_cast<VecBits<float>>(lookup<Values<bits, float>::count>(values.value, code));
  return bit_cast<Vec<float>>(found ^ (code << (32 - bits) & kSignBit<float>));
}
#endif

// A whole pair.
template <int bits, class C>
PYDELTA_INLINE inline Pair<C> expand(const Values<bits, C>& values, const uint8_t* codes, int64_t i,
                                     uint32_t minus) {
  if constexpr (bits == 1 && sizeof(C) == 4) {
    uint32_t signs = 0;
    memcpy(&signs, codes + i / 8, kLanes<C> / 4);
    const Vec<C> value = broadcast(values.value[0]);
    return flip<C>(Pair<C>{value, value}, signs ^ minus);
  }
#if defined(__AVX2__)
  if constexpr (bits > 1 && sizeof(C) == 4) {
    const uint8_t* const from = codes + i * bits / 8;
    return flip<C>(Pair<C>{expand(values, from), expand(values, from + kLanes<C> * bits / 8)}, minus);
  }
#endif
  return expand_upto<bits, C>(values, codes, i, 2 * kLanes<C>, minus);
}

// sink(offset, pair, left) for the elements of a piece; signs(i) gives those from the i-th on.
template <int bits, class C, class MinusSigns, class Sink>
PYDELTA_INLINE inline void expand_piece(const Values<bits, C>& values, Piece piece, const MinusSigns& signs,
                                        const Sink& sink) {
  constexpr int pair = 2 * kLanes<C>;
  int64_t i = 0;
  for (; i + pair <= piece.count; i += pair) {
    sink(piece.offset + i, expand<bits, C>(values, piece.codes, i, signs(i)), pair);
  }
  if (i == piece.count) return;
  const int64_t left = piece.count - i;
  sink(piece.offset + i, expand_upto<bits, C>(values, piece.codes, i, left, signs(i)), left);
}

}  // namespace PYDELTA_NAMESPACE
