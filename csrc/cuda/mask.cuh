// What a mask leaves of a thread's vector of deltas.
#pragma once
#include "ops.h"
#include "tile.cuh"

namespace PYDELTA_NAMESPACE {

// A mask as a launch carries it, in the types that threads compute in. A mask of either kind reads what it
// needs.
struct DeviceMask {
  MaskKind kind;
  float factor;  // of kept elements: none, random
  Key key;
  uint32_t below;  // random
  const void* tables[5];
};

// Random masks that keep all become none, so that a word is enough to compare draws with.
inline DeviceMask on_device(const Mask& mask) {
  const bool random = MaskKind(mask.kind) == MaskKind::random, all = random && mask.below > UINT32_MAX;
  DeviceMask found{all ? MaskKind::none : MaskKind(mask.kind),
                   random ? float(mask.factor) : 1.0f,
                   mask.key,
                   uint32_t(mask.below),
                   {}};
  for (int i = 0; i < 5; ++i) found.tables[i] = mask.tables[i];
  return found;
}

// Where a vector lies: its first `count` elements, at least one, have the indices at, at + 1, ... in tensors
// with rows of n, and start + at, ... in the tensor that those are part of.
struct Place {
  int64_t at, n, start;
  int count;
};

// Draws first .. first + V - 1 of a key. Where `first` is inside a block of four, one block more is drawn,
// and the words move up.
template <int V>
__device__ __forceinline__ void draw(uint32_t (&words)[V], Key key, uint64_t first) {
#pragma unroll
  for (int i = 0; i < V; i += 4) {
    const Words4 block = philox4x32(key, first / 4 + i / 4);
#pragma unroll
    for (int j = 0; j < 4; ++j) words[i + j] = block.w[j];
  }
  const int offset = int(first % 4);
  if (offset == 0) return;
  const Words4 next = philox4x32(key, first / 4 + V / 4);
  const auto word = [&](int i) { return i < V ? words[i % V] : next.w[i % 4]; };
#pragma unroll
  for (int i = 0; i < V; ++i) {
    words[i] = offset == 1 ? word(i + 1) : offset == 2 ? word(i + 2) : word(i + 3);
  }
}

// A cut, for elements that are counted from some index on: `before` holds for magnitudes above, and for equal
// ones of the first `ties` elements. It compares floats: a NaN lies before no cut.
struct Cut {
  float magnitude;
  int64_t ties;

  __device__ __forceinline__ bool before(float m, int i) const {
    return m > magnitude || (m == magnitude && i < ties);
  }
};

__device__ __forceinline__ Cut cut_of(const void* magnitudes, const void* indices, int64_t row,
                                      int64_t first) {
  return {static_cast<const float*>(magnitudes)[row], static_cast<const int64_t*>(indices)[row] - first};
}

// What is dropped is multiplied by 0, so that NaN stays and an infinity becomes NaN: no mask hides them.

// Rows may end within a vector, several times if they are short. A whole tensor is one row without an end.
template <int V>
__device__ __forceinline__ void keep_between(float (&d)[V], const DeviceMask& mask, const Place& place) {
  const auto& t = mask.tables;
  const bool rows = mask.kind == MaskKind::row_cuts;
  const float* norm = static_cast<const float*>(t[kColumnNorm]);
  int64_t row = rows ? place.at / place.n : 0;
  int64_t column = rows ? place.at - row * place.n : place.start + place.at;
  int end = rows ? int(min(place.n - column, int64_t(V))) : V;
  Cut low = cut_of(t[kLow], t[kLowIndex], row, column);
  Cut high = cut_of(t[kHigh], t[kHighIndex], row, column);
#pragma unroll
  for (int i = 0; i < V; ++i) {
    if (i == end && i < place.count) {
      ++row;
      column = -i;
      low = cut_of(t[kLow], t[kLowIndex], row, column);
      high = cut_of(t[kHigh], t[kHighIndex], row, column);
      end = int(min(i + place.n, int64_t(V)));
    }
    float m = fabsf(d[i]);
    if (norm != nullptr && i < place.count) m = __fmul_rn(m, norm[column + i]);
    d[i] = __fmul_rn(d[i], low.before(m, i) && !high.before(m, i) ? 1.0f : 0.0f);
  }
}

template <int V>
__device__ __forceinline__ void keep_by_rank(float (&d)[V], const DeviceMask& mask, const Place& place) {
  const int64_t* below = static_cast<const int64_t*>(mask.tables[kBelow]);
  const float* factor = static_cast<const float*>(mask.tables[kFactor]);
  const int32_t* rank = static_cast<const int32_t*>(mask.tables[kRanks]) + place.at;
  uint32_t draws[V];
  draw(draws, mask.key, uint64_t(place.start + place.at));
#pragma unroll
  for (int i = 0; i < V; ++i) {
    if (i >= place.count) continue;
    const int r = rank[i];
    d[i] = __fmul_rn(d[i], int64_t(draws[i]) < below[r] ? factor[r] : 0.0f);
  }
}

template <int V>
__device__ __forceinline__ void keep_drawn(float (&d)[V], const DeviceMask& mask, const Place& place) {
  uint32_t draws[V];
  draw(draws, mask.key, uint64_t(place.start + place.at));
#pragma unroll
  for (int i = 0; i < V; ++i) d[i] = __fmul_rn(d[i], draws[i] < mask.below ? mask.factor : 0.0f);
}

// Deltas times their factors. All threads of a launch take the same way.
template <int V>
__device__ __forceinline__ void apply(const DeviceMask& mask, float (&d)[V], const Place& place) {
  if (mask.kind == MaskKind::random) {
    keep_drawn(d, mask, place);
  } else if (mask.kind == MaskKind::della) {
    keep_by_rank(d, mask, place);
  } else if (mask.kind != MaskKind::none) {
    keep_between(d, mask, place);
  } else {
#pragma unroll
    for (int i = 0; i < V; ++i) d[i] = __fmul_rn(d[i], mask.factor);
  }
}

}  // namespace PYDELTA_NAMESPACE
