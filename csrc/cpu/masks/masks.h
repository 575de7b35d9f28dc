// What a mask leaves of the deltas in a tile: packed bits, an interval of magnitudes, or factors.
#pragma once
#include <limits>

#include "../../core/mask.h"
#include "../kernels.h"
#include "../random/random_bits.h"

namespace PYDELTA_NAMESPACE {

// What an element is kept by: nothing, codes in an interval, codes on the way past a cut, bits, or a factor
// of its own. mixed: by what the model says.
enum class Keep { all, range, cut, bits, each, mixed };

// One model's mask in one tile.
template <class C>
struct TileMask {
  Keep keep;
  C factor;
  bits_t<C> low, high;            // kept codes lie in [low, high); with cut, plus 1 from the next two on
  int64_t low_index, high_index;  // by place in the tile
  const C* norm;                  // column norms from the tile's first element on, or null
  SignView bits;                  // 1 means kept
  const C* factors;               // 0 means dropped
};

template <class C>
using VecInts = typename vector_of<std::make_signed_t<bits_t<C>>, kLanes<C>>::type;

// What is dropped is multiplied by 0, so that NaN stays and an infinity becomes NaN: no mask hides them.

// v where low <= code < high, v * 0 elsewhere; all three as signed integers.
template <class C>
PYDELTA_INLINE inline Vec<C> keep_between(Vec<C> v, VecBits<C> code, VecBits<C> low, VecBits<C> high) {
#if defined(__AVX512F__)
  const auto c = (__m512i)code, a = (__m512i)low, b = (__m512i)high;
  if constexpr (sizeof(C) == 4) {
    const auto kept = _mm512_mask_cmplt_epi32_mask(_mm512_cmple_epi32_mask(a, c), c, b);
    return v * (Vec<C>)_mm512_maskz_mov_ps(kept, _mm512_set1_ps(1));
  } else {
    const auto kept = _mm512_mask_cmplt_epi64_mask(_mm512_cmple_epi64_mask(a, c), c, b);
    return v * (Vec<C>)_mm512_maskz_mov_pd(kept, _mm512_set1_pd(1));
  }
#else
  const auto c = (VecInts<C>)code;
  const auto kept = (c >= (VecInts<C>)low) & (c < (VecInts<C>)high);
  return v * bit_cast<Vec<C>>(bit_cast<VecBits<C>>(broadcast(C(1))) & (VecBits<C>)kept);
#endif
}

// v * factor where the bit is 1, v * 0 elsewhere.
template <class C>
PYDELTA_INLINE inline Vec<C> keep_bits(Vec<C> v, uint32_t bits, Vec<C> factor) {
#if defined(__AVX512F__)
  if constexpr (sizeof(C) == 4) return v * (Vec<C>)_mm512_maskz_mov_ps(__mmask16(bits), (__m512)factor);
  if constexpr (sizeof(C) == 8) return v * (Vec<C>)_mm512_maskz_mov_pd(__mmask8(bits), (__m512d)factor);
#else
  const VecBits<C> lane = bits_t<C>(1) << lane_index<C>();
  const auto kept = ((VecBits<C>{} + bits_t<C>(bits)) & lane) == lane;
  return v * bit_cast<Vec<C>>(bit_cast<VecBits<C>>(factor) & (VecBits<C>)kept);
#endif
}

template <class C>
PYDELTA_INLINE inline VecBits<C> codes_of(Vec<C> v) {
  return bit_cast<VecBits<C>>(v) & ~kSignBit<C>;
}

// Bounds of codes in a pair of vectors around a cut: `bound`, and 1 more for elements at or behind it;
// `ahead` is how far ahead of the pair it is.
template <Order order, class C>
PYDELTA_INLINE inline void bounds_around(bits_t<C> bound, int64_t ahead, VecBits<C>& a, VecBits<C>& b) {
  constexpr int64_t places = 2 * kLanes<C>;
  constexpr bool parity = order == Order::parity;
  const auto from = VecInts<C>{} + std::make_signed_t<bits_t<C>>(ahead < 0        ? 0
                                                                 : ahead < places ? ahead
                                                                                  : places);
  const auto lane = (VecInts<C>)lane_index<C>();
  a = bound - (VecBits<C>)((parity ? lane * 2 : lane) >= from);
  b = bound - (VecBits<C>)((parity ? lane * 2 + 1 : lane + kLanes<C>) >= from);
}

// d where its size, which has the element's magnitude, lies in the tile's interval.
template <Order order, class C>
PYDELTA_INLINE inline Pair<C> keep_cut(const TileMask<C>& m, int64_t j, Pair<C> d, Pair<C> size) {
  const int64_t low_ahead = m.low_index - j, high_ahead = m.high_index - j;
  const auto within = [](int64_t ahead) { return uint64_t(ahead) - 1 < uint64_t(2 * kLanes<C> - 1); };
  VecBits<C> low_a, low_b, high_a, high_b;
  if (__builtin_expect(within(low_ahead) || within(high_ahead), 0)) {
    bounds_around<order, C>(m.low, low_ahead, low_a, low_b);
    bounds_around<order, C>(m.high, high_ahead, high_a, high_b);
  } else {
    low_a = low_b = VecBits<C>{} + (m.low + (low_ahead <= 0));
    high_a = high_b = VecBits<C>{} + (m.high + (high_ahead <= 0));
  }
  return {keep_between<C>(d.a, codes_of<C>(size.a), low_a, high_a),
          keep_between<C>(d.b, codes_of<C>(size.b), low_b, high_b)};
}

// What stays of a pair of vectors of deltas, rescaled; j: place in the tile, left: elements from there on.
template <Keep keep, Order order, class C>
PYDELTA_INLINE inline Pair<C> masked(const TileMask<C>& m, int64_t j, int64_t left, Pair<C> d) {
  if constexpr (keep == Keep::all) {
    return {d.a * broadcast(m.factor), d.b * broadcast(m.factor)};
  } else if constexpr (keep == Keep::range) {
    const VecBits<C> low = VecBits<C>{} + m.low, high = VecBits<C>{} + m.high;
    return {keep_between<C>(d.a, codes_of<C>(d.a), low, high),
            keep_between<C>(d.b, codes_of<C>(d.b), low, high)};
  } else if constexpr (keep == Keep::cut) {
    if (!m.norm) return keep_cut<order, C>(m, j, d, d);
    const Pair<C> norm = load2_upto<order>(m.norm + j, left);
    return keep_cut<order, C>(m, j, d, Pair<C>{d.a * norm.a, d.b * norm.b});
  } else if constexpr (keep == Keep::bits) {
    const uint32_t bits = m.bits.from(j);
    const Vec<C> factor = broadcast(m.factor);
    return {keep_bits<C>(d.a, bits, factor), keep_bits<C>(d.b, bits >> kLanes<C>, factor)};
  } else if constexpr (keep == Keep::each) {
    const Pair<C> factor = load2_upto<order>(m.factors + j, left);
    return {d.a * factor.a, d.b * factor.b};
  } else {
    switch (m.keep) {
      case Keep::range:
        return masked<Keep::range, order>(m, j, left, d);
      case Keep::cut:
        return masked<Keep::cut, order>(m, j, left, d);
      case Keep::bits:
        return masked<Keep::bits, order>(m, j, left, d);
      case Keep::each:
        return masked<Keep::each, order>(m, j, left, d);
      default:
        return masked<Keep::all, order>(m, j, left, d);
    }
  }
}

// A mask of a whole tensor, as it came.
template <class C>
struct TensorMask {
  MaskKind kind;
  Stream stream;
  uint64_t below;
  C factor;
  const void* const* tables;

  explicit TensorMask(const Mask& mask)
      : kind(MaskKind(mask.kind)),
        stream(mask.key),
        below(mask.below),
        factor(kind == MaskKind::random ? C(mask.factor) : C(1)),
        tables(mask.tables) {}

  template <class E>
  const E* table(int which) const {
    return static_cast<const E*>(tables[which]);
  }
  bool by_row() const { return kind == MaskKind::row_cuts || kind == MaskKind::della; }
};

// Where a tile lies: its row and place there, its flat index in the larger tensor, how many elements it has.
struct TilePlace {
  int64_t row, j, index, length;
};

template <class C>
TileMask<C> cuts_of_tile(const TensorMask<C>& mask, TilePlace place) {
  const bool rows = mask.kind == MaskKind::row_cuts;
  const int64_t group = rows ? place.row : 0, first = rows ? place.j : place.index;
  const C low = mask.template table<C>(kLow)[group];
  C high = mask.template table<C>(kHigh)[group];
  TileMask<C> tile{};
  tile.low_index = mask.template table<int64_t>(kLowIndex)[group] - first;
  tile.high_index = mask.template table<int64_t>(kHighIndex)[group] - first;
  if (high != high) {  // no number lies before it
    high = std::numeric_limits<C>::infinity();
    tile.high_index = -first;
  }
  const C* const norm = mask.template table<C>(kColumnNorm);
  tile.norm = norm ? norm + place.j : nullptr;
  const auto inside = [&](int64_t cut) { return cut > 0 && cut < place.length; };
  if (tile.norm || inside(tile.low_index) || inside(tile.high_index)) {
    tile.keep = Keep::cut;
    tile.low = code_of(low);
    tile.high = code_of(high);
  } else {
    tile.keep = Keep::range;
    tile.low = least_before(low, tile.low_index, 0);
    tile.high = least_before(high, tile.high_index, 0);
  }
  return tile;
}

// The mask in a tile. fetch: the model's elements there. `words`: room for bit_words(place.length);
// `factors`: those of the tile, with della.
template <class C>
TileMask<C> mask_of_tile(const TensorMask<C>& mask, TilePlace place, Order order, Fetch fetch,
                         uint32_t* words, const C* factors) {
  TileMask<C> tile{};
  tile.factor = mask.factor;
  if (mask.kind == MaskKind::tensor_cuts || mask.kind == MaskKind::row_cuts) return cuts_of_tile(mask, place);
  if (mask.kind == MaskKind::della) {
    tile.keep = Keep::each;
    tile.factors = factors;
  } else if (mask.kind == MaskKind::random && mask.below >> 32 == 0) {
    random_bits(mask.stream, uint64_t(place.index), place.length, uint32_t(mask.below), order, fetch, words);
    tile.keep = Keep::bits;
    tile.bits = {reinterpret_cast<const char*>(words), ~int64_t(0)};
  } else {
    tile.keep = Keep::all;
  }
  return tile;
}

}  // namespace PYDELTA_NAMESPACE
