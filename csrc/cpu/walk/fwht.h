// The Walsh-Hadamard transform of one block, in natural order, stages h = 1, 2, 4, ... ascending:
// every element is then the same tree of sums on every backend, and so the same bits.
#pragma once
#include "../simd/simd.h"

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
constexpr int kLaneLog = kLanes<C> == 16  ? 4
                         : kLanes<C> == 8 ? 3
                         : kLanes<C> == 4 ? 2
                                          : 1;

// Keeps the compiler from turning every address that depends on i into a variable of the loop, in memory.
PYDELTA_INLINE inline int64_t opaque(int64_t i) {
  asm("" : "+r"(i));
  return i;
}

// body(first) for every group of 2^radix registers, `stride` apart, that starts with `first`; neighbours
// `side` apart.
template <int radix, int side, class Body>
PYDELTA_INLINE inline void for_groups(int64_t begin, int64_t end, int64_t stride, Body body) {
  for (int64_t outer = begin; outer < end; outer += stride << radix) {
    for (int64_t first = outer; first < outer + stride; first += side) body(opaque(first));
  }
}

// One group: registers from load(i), all their stages, results to store(i, v).
template <int radix, class C, class Load, class Store>
PYDELTA_INLINE inline void combine(int64_t first, int64_t stride, Load load, Store store) {
  constexpr int count = 1 << radix;
  Vec<C> v[count];
#pragma GCC unroll 16
  for (int i = 0; i < count; ++i) v[i] = load(first + i * stride);
  register_stages<count, C>(v);
#pragma GCC unroll 16
  for (int i = 0; i < count; ++i) store(first + i * stride, v[i]);
}

// The same for a group and its neighbour at once.
template <int radix, class C, class Load, class Store>
PYDELTA_INLINE inline void combine2(int64_t first, int64_t stride, Load load, Store store) {
  constexpr int count = 1 << radix;
  Vec<C> a[count], b[count];
#pragma GCC unroll 16
  for (int i = 0; i < count; ++i) {
    const Pair<C> p = load(first + i * stride);
    a[i] = p.a;
    b[i] = p.b;
  }
  register_stages<count, C>(a);
  register_stages<count, C>(b);
#pragma GCC unroll 16
  for (int i = 0; i < count; ++i) store(first + i * stride, Pair<C>{a[i], b[i]});
}

// A pass whose radix is known only now; what it loads is a Vec (side 1) or a Pair (side 2).
template <int radix, int side, class C, class Load, class Store>
PYDELTA_INLINE inline void fwht_pass(int log, int64_t end, int64_t stride, Load load, Store store) {
  if constexpr (radix > 0) {
    if (log < radix) return fwht_pass<radix - 1, side, C>(log, end, stride, load, store);
  }
  for_groups<radix, side>(0, end, stride, [=](int64_t first) PYDELTA_INLINE {
    if constexpr (side == 1) combine<radix, C>(first, stride, load, store);
    if constexpr (side == 2) combine2<radix, C>(first, stride, load, store);
  });
}

// Passes in place: stages `done` .. `log` - 1 of groups of 2^width registers.
template <class C>
[[gnu::noinline]] void fwht_middle(int64_t vectors, int done, int log, int width, C* tile) {
  const auto get = [tile](int64_t i) PYDELTA_INLINE { return load(tile + i * kLanes<C>); };
  const auto put = [tile](int64_t i, Vec<C> v) PYDELTA_INLINE { write(tile + i * kLanes<C>, v, false); };
  while (done < log) {
    const int radix = log - done < kRadixLog ? log - done : kRadixLog;
    fwht_pass<kRadixLog, 1, C>(radix, vectors, int64_t(1) << (width + done), get, put);
    done += radix;
  }
}

// Groups whose stages are done together in the first-level cache, as a logarithm.
constexpr int kChunkLog = 8;

// Transforms `vectors` registers: blocks of 2^log groups of 2^width registers, the groups being what is
// combined. read.one<near>(i) gives register i with its lanes' own stages done (side 1; near: there is one
// pass only); by parity read.both(i) gives registers i and i + 1, and read.half<0>(i), read.half<1>(i + 1)
// each of them (side 2). store(i, v) takes the result; `tile` holds what is between.
template <int side, class C, class Reader, class Store>
PYDELTA_INLINE inline void fwht(int64_t vectors, int log, int width, C* tile, Reader read, Store store) {
  constexpr int kLast = kRadixLog - (side - 1);  // two neighbours at once: half as many registers each
  const int64_t stride = int64_t(1) << width;
  const auto source = [read](int64_t i) PYDELTA_INLINE {
    if constexpr (side == 1) return read.template one<true>(i);
    if constexpr (side == 2) return read.both(i);
  };
  if (log <= kLast) return fwht_pass<kLast, side, C>(log, vectors, stride, source, store);
  const auto get = [tile](int64_t i) PYDELTA_INLINE {
    if constexpr (side == 1) return load(tile + i * kLanes<C>);
    if constexpr (side == 2) return Pair<C>{load(tile + i * kLanes<C>), load(tile + (i + 1) * kLanes<C>)};
  };
  const auto put = [tile](int64_t i, Vec<C> v) PYDELTA_INLINE { write(tile + i * kLanes<C>, v, false); };
  const int rest = log - kRadixLog, last = rest > 0 ? (rest - 1) % kLast + 1 : 0;
  const int inner = log - last < kChunkLog ? log - last : kChunkLog;
  const int64_t chunk = inner > kRadixLog ? stride << inner : vectors;
  for (int64_t begin = 0; begin < vectors; begin += chunk) {
    for_groups<kRadixLog, side>(begin, begin + chunk, stride, [=](int64_t first) PYDELTA_INLINE {
      if constexpr (side == 1) {
        const auto one = [=](int64_t i) PYDELTA_INLINE { return read.template one<false>(i); };
        combine<kRadixLog, C>(first, stride, one, put);
      } else {
        const auto even = [=](int64_t i) PYDELTA_INLINE { return read.template half<0>(i); };
        const auto odd = [=](int64_t i) PYDELTA_INLINE { return read.template half<1>(i); };
        combine<kRadixLog, C>(first, stride, even, put);
        combine<kRadixLog, C>(first + 1, stride, odd, put);
      }
    });
    if (inner > kRadixLog) fwht_middle<C>(chunk, kRadixLog, inner, width, tile + begin * kLanes<C>);
  }
  if (inner < log - last) fwht_middle<C>(vectors, inner, log - last, width, tile);
  fwht_pass<kLast, side, C>(last, vectors, stride << (log - last), get, store);
}

}  // namespace PYDELTA_NAMESPACE
