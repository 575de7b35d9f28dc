// The Walsh-Hadamard transform of one block, in natural order, stages h = 1, 2, 4, ... ascending:
// every element is then the same tree of sums on every backend, and so the same bits.
#pragma once
#include "simd.h"

namespace PYDELTA_NAMESPACE {

// log2(count) butterfly stages between `count` registers.
template <int count, class C>
PYDELTA_INLINE inline void register_stages(Vec<C> (&v)[count]) {
#pragma GCC unroll 8
  for (int h = 1; h < count; h *= 2) {
#pragma GCC unroll 16
    for (int i = 0; i < count; ++i) {
      if (i & h) continue;
      const Vec<C> a = v[i], b = v[i + h];
      v[i] = a + b;
      v[i + h] = add_exact_product<C>(a, b, broadcast(C(-1)));
    }
  }
}

// The stages inside a register: blocks of 2^log lanes, log up to log2(kLanes).
template <class C>
PYDELTA_INLINE inline Vec<C> lane_stages(Vec<C> v, int log) {
  if (log > 0) v = lane_stage<1, C>(v);
  if (log > 1) v = lane_stage<2, C>(v);
  if constexpr (kLanes<C> > 4) {
    if (log > 2) v = lane_stage<4, C>(v);
  }
  if constexpr (kLanes<C> > 8) {
    if (log > 3) v = lane_stage<8, C>(v);
  }
  return v;
}

template <class C>
constexpr int kLaneLog = kLanes<C> == 16 ? 4 : kLanes<C> == 8 ? 3 : kLanes<C> == 4 ? 2 : 1;

// One pass over the block: 2^radix groups of `side` adjacent registers, `stride` registers apart, are loaded,
// combined and stored. store(i, v) takes the registers i .. i + side - 1.
template <int radix, int side, class C, class Load, class Store>
PYDELTA_INLINE inline void fwht_pass(int64_t vectors, int64_t stride, Load load, Store store) {
  constexpr int count = 1 << radix;
  for (int64_t outer = 0; outer < vectors; outer += stride * count) {
    for (int64_t first = outer; first < outer + stride; first += side) {
      Vec<C> v[side][count];
#pragma GCC unroll 16
      for (int i = 0; i < count; ++i) {
#pragma GCC unroll 2
        for (int s = 0; s < side; ++s) v[s][i] = load(first + i * stride + s);
      }
#pragma GCC unroll 2
      for (int s = 0; s < side; ++s) register_stages<count, C>(v[s]);
#pragma GCC unroll 16
      for (int i = 0; i < count; ++i) {
        if constexpr (side == 1) {
          store(first + i * stride, v[0][i]);
        } else {
          store(first + i * stride, Pair<C>{v[0][i], v[1][i]});
        }
      }
    }
  }
}

template <int radix, int side, class C, class Load, class Store>
PYDELTA_INLINE inline void fwht_pass_of(int log, int64_t vectors, int64_t stride, Load load, Store store) {
  if constexpr (radix > 0) {
    if (log < radix) return fwht_pass_of<radix - 1, side, C>(log, vectors, stride, load, store);
  }
  fwht_pass<radix, side, C>(vectors, stride, load, store);
}

// Passes in place: stages `done` .. `log` - 1 of groups of 2^width registers.
template <class C>
[[gnu::noinline]] void fwht_middle(int64_t vectors, int done, int log, int width, C* tile) {
  const auto get = [tile](int64_t i) PYDELTA_INLINE { return load(tile + i * kLanes<C>); };
  const auto put = [tile](int64_t i, Vec<C> v) PYDELTA_INLINE { write(tile + i * kLanes<C>, v, false); };
  while (done < log) {
    const int radix = log - done < kRadixLog ? log - done : kRadixLog;
    fwht_pass_of<kRadixLog, 1, C>(radix, vectors, int64_t(1) << (width + done), get, put);
    done += radix;
  }
}

// Transforms `vectors` registers: blocks of 2^log groups of 2^width registers, the groups being what is combined.
// load(i) gives register i, its lanes' own stages included; store(i, v) takes the result, one register at a time
// (side 1) or two adjacent ones (side 2). `tile` holds what is between.
template <class C, int width, int side, class Load, class Store>
PYDELTA_INLINE inline void fwht(int64_t vectors, int log, C* tile, Load read, Store store) {
  constexpr int kLast = kRadixLog - (side - 1);  // with two registers side by side, half as many groups fit
  const int64_t stride = int64_t(1) << width;
  if (log <= kLast) return fwht_pass_of<kLast, side, C>(log, vectors, stride, read, store);
  const auto get = [tile](int64_t i) PYDELTA_INLINE { return load(tile + i * kLanes<C>); };
  const auto put = [tile](int64_t i, Vec<C> v) PYDELTA_INLINE { write(tile + i * kLanes<C>, v, false); };
  const int rest = log - kRadixLog, last = rest > 0 ? (rest - 1) % kLast + 1 : 0;
  fwht_pass<kRadixLog, 1, C>(vectors, stride, read, put);
  if (rest > last) fwht_middle<C>(vectors, kRadixLog, log - last, width, tile);
  fwht_pass_of<kLast, side, C>(last, vectors, stride << (log - last), get, store);
}

}  // namespace PYDELTA_NAMESPACE
