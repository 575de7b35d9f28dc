// A tile: what one thread block holds in registers, and how it gets there and back.
#pragma once
#include "../core/transform.h"
#include "element.cuh"
#include "signs.cuh"

namespace PYDELTA_NAMESPACE {

// Hides from the compiler that a value stays the same, so that it does not keep all that follows from it in
// registers across a loop.
template <class T>
__device__ __forceinline__ T opaque(T value) {
  if constexpr (sizeof(T) == 8) {
    asm volatile("" : "+l"(value));
  } else {
    asm volatile("" : "+r"(value));
  }
  return value;
}

__device__ __forceinline__ int lane() { return int(opaque(threadIdx.x) % 32); }
__device__ __forceinline__ int warp() { return int(opaque(threadIdx.x) / 32); }

// A thread holds C vectors of V neighbours. The 32 vectors of a warp that have the same number lie side by
// side, so that every access of a warp is one piece of memory: a slot. Element i of vector j is v[j * V + i].
template <int V_, int C_, int kThreads_, bool kHadamard_>
struct Plan {
  static constexpr int V = V_, C = C_, E = V * C;
  static constexpr int kThreads = kThreads_, kWarps = kThreads / 32;
  static constexpr int kSlot = 32 * V, kTile = kWarps * C * kSlot;
  static constexpr bool kHadamard = kHadamard_;
};

// One row of the walk: `length` columns from element `start` on, `stride` elements apart. `vector` says that
// whole vectors may be loaded and stored.
struct Row {
  int64_t start, length, stride;
  bool vector;
};

// Which columns of the tile a warp holds: its vector j, lane 0, starts at column first + j * step.
struct Slots {
  int first, step;
};

// Before an exchange a warp's slots lie side by side, after it they are dealt out in turn.
template <class P>
__device__ __forceinline__ Slots own_slots() {
  return {warp() * P::C * P::kSlot, P::kSlot};
}
template <class P>
__device__ __forceinline__ Slots dealt_slots() {
  return {warp() * P::kSlot, opaque(P::kWarps * P::kSlot)};
}

// The row's column at which a lane's first vector starts.
template <class P>
__device__ __forceinline__ int64_t first_column(Slots slots) {
  return int64_t(blockIdx.x) * P::kTile + slots.first + lane() * P::V;
}

// How many of the row's columns there are from c0 on, as far as a tile may reach.
template <class P>
__device__ __forceinline__ int columns_left(const Row& row, int64_t c0) {
  return int(max(min(row.length - c0, int64_t(P::kTile)), int64_t(0)));
}

// N vectors, `step` columns apart; zeros from the column c0 + `left` on. Rows of odd lengths, unaligned and
// strided ones go element by element through a thread's local memory, in a loop: rare, and kept out of the
// way of registers.
template <int N, int V, class T>
__device__ __forceinline__ void load_vectors(Words<T, V>* to, const T* x, const Row& row, int64_t c0,
                                             int left, int step) {
  if (row.vector) {
    const T* p = x + row.start + c0;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      to[j] = {};
      if (j * step < left) load_vector(to[j], p + j * step);
    }
    return;
  }
  Unsigned<T> staged[N][V];
  const auto* p = reinterpret_cast<const Unsigned<T>*>(x) + row.start + c0 * row.stride;
#pragma unroll 1
  for (int j = 0; j < N; ++j) {
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const int c = j * step + i;
      staged[j][i] = c < left ? p[c * row.stride] : 0;
    }
  }
  memcpy(to, staged, sizeof(staged));
}

// Vectors j0 .. j0 + N - 1 of a thread's columns of the tile.
template <class P, int N, class T>
__device__ __forceinline__ void load(Words<T, P::V>* to, const T* x, const Row& row, Slots slots, int j0) {
  const int64_t c0 = first_column<P>(slots);
  const int skipped = j0 * slots.step;
  load_vectors<N>(to, x, row, c0 + skipped, columns_left<P>(row, c0) - skipped, slots.step);
}

template <class P, class T>
__device__ __forceinline__ void store(T* out, const float (&v)[P::E], const Row& row, Slots slots) {
  const int64_t c0 = first_column<P>(slots);
  const int left = columns_left<P>(row, c0), step = slots.step;
  if (row.vector) {
    T* p = out + row.start + c0;
    const bool all = (P::C - 1) * step < left;
#pragma unroll
    for (int j = 0; j < P::C; ++j, p += step) {
      if (all || j * step < left) store_vector(p, rounded<T, P::V>(v + j * P::V));
    }
    return;
  }
  Words<T, P::V> words[P::C];
#pragma unroll
  for (int j = 0; j < P::C; ++j) words[j] = rounded<T, P::V>(v + j * P::V);
  Unsigned<T> staged[P::C][P::V];
  memcpy(staged, words, sizeof(staged));
  auto* p = reinterpret_cast<Unsigned<T>*>(out) + row.start + c0 * row.stride;
#pragma unroll 1
  for (int j = 0; j < P::C; ++j) {
#pragma unroll
    for (int i = 0; i < P::V; ++i) {
      const int c = j * step + i;
      if (c < left) p[c * row.stride] = staged[j][i];
    }
  }
}

// Nothing where the kernels run on a CPU, in a test.
__device__ __forceinline__ void prefetch_line([[maybe_unused]] const void* p) {
#ifdef __CUDA_ARCH__
  asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
#endif
}

// Asks for a row's columns ahead of time: where one block fills a multiprocessor, no other block's loads hide
// its own.
template <class P, class T>
__device__ __forceinline__ void prefetch(const T* x, const Row& row, Slots slots) {
  constexpr int kLanesPerLine = 128 / (P::V * int(sizeof(T)));
  const int64_t c0 = first_column<P>(slots);
  if (!row.vector || lane() % kLanesPerLine != 0) return;
#pragma unroll
  for (int j = 0; j < P::C; ++j) {
    const int64_t c = c0 + j * slots.step;
    if (c < row.length) prefetch_line(x + row.start + c);
  }
}

// Whether what is loaded of a source keeps the signs of its elements apart, where others can be added.
template <class Source>
constexpr bool kHoldsSigns = false;

// The signs of a thread's elements under one key, element i's in bit i.
template <class P>
struct Signs {
  static constexpr int kWords = (P::E + 31) / 32;
  uint32_t words[kWords];

  // Lane l draws words l, l + 32, ... of the warp's E, each for 32 neighbours; word t is for vectors t / V.
  // Then each lane collects what is its own.
  __device__ __forceinline__ void draw(Key key, uint64_t first, SignAxis axis, Slots slots) {
    uint32_t drawn[kWords];
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      const int t = (i * 32 + lane()) % P::E;
      const int c = slots.first + t / P::V * slots.step + t % P::V * 32;
      drawn[i] = draw_columns(key, first, axis, int64_t(blockIdx.x) * P::kTile + c);
      words[i] = 0;
    }
    const int at = lane() * P::V;
#pragma unroll
    for (int t = 0; t < P::E; t += P::V) {
      const uint32_t signs = __shfl_sync(~0u, drawn[t / 32], t % 32 + at / 32) >> (at % 32);
      words[t / 32] |= (signs & ((1u << P::V) - 1)) << (t % 32);
    }
  }

  template <class Source>
  __device__ __forceinline__ void flip(Words<Source, P::V> (&source)[P::C]) const {
    static_assert(kHoldsSigns<Source>);
#pragma unroll
    for (int j = 0; j < P::C; ++j) source[j].minus ^= words[j * P::V / 32] >> (j * P::V % 32);
  }

  __device__ __forceinline__ void flip(float (&v)[P::E]) const {
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      const uint32_t signs = opaque(words[w]);
#pragma unroll
      for (int i = 0; i < 32 && w * 32 + i < P::E; ++i) {
        const uint32_t flipped = bit_cast<uint32_t>(v[w * 32 + i]) ^ ((signs << (31 - i)) & 0x80000000u);
        v[w * 32 + i] = bit_cast<float>(flipped);
      }
    }
  }
};

}  // namespace PYDELTA_NAMESPACE
