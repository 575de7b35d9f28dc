// Exact selection by radix: the bits of magnitudes, as integers in the same order, level by level.
#pragma once
#include "ops.h"
#include "tile.cuh"

namespace PYDELTA_NAMESPACE {

// 31 bits: exponent and three of the mantissa's, then the rest in two parts. 16-bit types end before the
// last.
constexpr int kBins = 2048;
struct Level {
  int shift, bits;
};
__device__ __forceinline__ Level level_of(int level) {
  return level == 0 ? Level{20, 11} : level == 1 ? Level{10, 10} : Level{0, 10};
}

constexpr uint32_t kNoCode = 0xffffffffu;    // larger than any, its prefixes too
constexpr uint32_t kNoPrefix = 0xfffffffeu;  // of no code

// The element of rank `rank`, counted from 1 and the largest, among those whose code begins with `prefix`.
struct Cursor {
  uint32_t prefix;
  uint64_t rank;
};
constexpr int kCuts = 2;  // the low and the high one, found in the same passes

__device__ __forceinline__ Cursor first_cursor(int64_t rank) {
  return {rank > 0 ? 0 : kNoPrefix, uint64_t(rank)};
}

// Two vectors of 16 bytes a thread.
template <class T>
using SelectPlan = Plan<16 / int(sizeof(T)), 2, 256, false>;

// What is selected from.
template <class T>
struct Magnitudes {
  const T* x;
  const T* base;      // or null
  const float* norm;  // of each element of a group, or null
  int64_t groups, size;
  bool vector;

  // All NaN are one, the largest: as a stable sort has them.
  __device__ __forceinline__ uint32_t code(float x, float b, int64_t i) const {
    float magnitude = fabsf(__fsub_rn(x, b));
    if (norm != nullptr) magnitude = __fmul_rn(magnitude, norm[i]);
    const uint32_t bits = code_of(magnitude);
    return bits > 0x7f800000u ? 0x7fc00000u : bits;
  }

  __device__ __forceinline__ uint32_t code_at(int64_t group, int64_t i) const {
    const auto value = [&](const T* p) {
      uint32_t word = 0;
      memcpy(&word, p + group * size + i, sizeof(T));
      return unpack<T>(word, 0);
    };
    return code(value(x), base == nullptr ? 0.0f : value(base), i);
  }

  // Calls f(tile, codes) for every tile of a group that is this block's: tiles blockIdx.x, + gridDim.x, ...
  template <class F>
  __device__ __forceinline__ void each_tile(int64_t group, const F& f) const {
    using P = SelectPlan<T>;
    const Slots slots = own_slots<P>();
    for (int64_t t = 0; (t + blockIdx.x) * P::kTile < size; t += gridDim.x) {
      const int64_t skipped = t * P::kTile;
      const Row row{group * size + skipped, size - skipped, 1, vector};
      const int64_t c0 = first_column<P>(slots);
      const int left = columns_left<P>(row, c0);
      Words<T, P::V> values[P::C], origin[P::C] = {};
      load<P, P::C>(values, x, row, slots, 0);
      if (base != nullptr) load<P, P::C>(origin, base, row, slots, 0);
      uint32_t codes[P::E];
#pragma unroll
      for (int e = 0; e < P::E; ++e) {
        const int j = e / P::V, i = e % P::V, c = j * slots.step + i;
        codes[e] = kNoCode;
        if (c < left) codes[e] = code(element(values[j], i), element(origin[j], i), skipped + c0 + c);
      }
      f(t + blockIdx.x, codes);
    }
  }

  // Adds a level's digits of the codes that begin as a cursor's prefix does to the histogram of that cursor;
  // cursors of equal prefixes share the first.
  __device__ __forceinline__ void count(int64_t group, int level, const Cursor (&cursors)[kCuts],
                                        unsigned* histograms) const {
    const auto [shift, bits] = level_of(level);
    const uint32_t low = cursors[0].prefix;
    const uint32_t high = cursors[1].prefix == low ? kNoPrefix : cursors[1].prefix;
    each_tile(group, [&, shift = shift, bits = bits](int64_t, const auto& codes) {
#pragma unroll
      for (const uint32_t code : codes) {
        const uint32_t begins = code >> (shift + bits), digit = code >> shift & ((1u << bits) - 1);
        if (begins == low) atomicAdd(histograms + digit, 1u);
        if (begins == high) atomicAdd(histograms + kBins + digit, 1u);
      }
    });
  }
};

__device__ __forceinline__ void* shared_memory() {
  extern __shared__ float4 shared[];
  return shared;
}

// What a block finds together.
struct Found {
  int64_t at;
  uint64_t rank;  // what is left of the rank there
};
struct Search {
  static constexpr int kThreads = 256;
  uint64_t sums[kThreads / 32];
  Found found;

  // Where the running sum of weight(0), weight(1), ... reaches the rank. Each thread adds up a part, and the
  // one whose part it is goes through it again.
  template <class F>
  __device__ __forceinline__ Found find(int64_t count, uint64_t rank, const F& weight) {
    const int64_t part = (count + kThreads - 1) / kThreads;
    const int64_t first = min(threadIdx.x * part, count), last = min(first + part, count);
    uint64_t own = 0;
    for (int64_t i = first; i < last; ++i) own += weight(i);
    uint64_t reached = own;
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
      const uint64_t before = __shfl_up_sync(~0u, reached, d);
      if (lane() >= d) reached += before;
    }
    if (lane() == 31) sums[warp()] = reached;
    __syncthreads();
    for (int w = 0; w < warp(); ++w) reached += sums[w];
    uint64_t before = reached - own;
    if (before < rank && rank <= reached) {
      int64_t i = first;
      for (uint64_t here = weight(i); before + here < rank; here = weight(++i)) before += here;
      found = {i, rank - before};
    }
    __syncthreads();
    return found;
  }

  // The cursors after a level whose digits were counted.
  template <class Count>
  __device__ __forceinline__ void narrow(int level, Cursor (&cursors)[kCuts], const Count* histograms) {
    const int bins = 1 << level_of(level).bits;
    const bool shared = cursors[0].prefix == cursors[1].prefix;
    for (int q = 0; q < kCuts; ++q) {
      if (cursors[q].prefix == kNoPrefix) continue;
      const Count* histogram = histograms + (q == 0 || shared ? 0 : kBins);
      const auto from_top = [&](int64_t i) { return uint64_t(histogram[bins - 1 - i]); };
      const auto [at, rank] = find(bins, cursors[q].rank, from_top);
      cursors[q] = {cursors[q].prefix * bins + uint32_t(bins - 1 - at), rank};
    }
  }
};

// The code that a cursor has found after so many levels.
__device__ __forceinline__ uint32_t found_code(const Cursor& cursor, int levels) {
  return cursor.prefix << level_of(levels - 1).shift;
}

}  // namespace PYDELTA_NAMESPACE
