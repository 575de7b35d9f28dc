// A tile: what one thread block holds in registers, and how it gets there and back.
#pragma once
#include "../core/transform.h"
#include "element.cuh"
#include "signs.cuh"

namespace PYDELTA_NAMESPACE {

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

// Which columns a warp holds: its vector j, lane 0, starts at column first + j * step.
struct Slots {
  int64_t first;
  int step;
};

// Hides from the compiler that a value stays the same, so that it does not keep all that follows from it in
// registers across a loop.
__device__ __forceinline__ int opaque(int value) {
  asm volatile("" : "+r"(value));
  return value;
}

// Vectors j0 .. j0 + N - 1 of a thread. Rows of odd lengths, unaligned and strided ones go element by element
// through a thread's local memory, in a loop: rare, and kept out of the way of registers.
template <class P, int N, class T>
__device__ __forceinline__ void load(Words<T, P::V>* to, const T* x, const Row& row, Slots slots, int j0) {
  const int64_t c0 = slots.first + threadIdx.x % 32 * P::V;
  const int left = int(min(row.length - c0, int64_t(P::kTile))), step = opaque(slots.step);
  if (row.vector) {
    const T* p = x + row.start + c0;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      to[j] = {};
      if ((j0 + j) * step < left) load_vector(to[j], p + (j0 + j) * step);
    }
    return;
  }
  Unsigned<T> staged[N][P::V];
  const auto* p = reinterpret_cast<const Unsigned<T>*>(x) + row.start + c0 * row.stride;
#pragma unroll 1
  for (int j = 0; j < N; ++j) {
#pragma unroll
    for (int i = 0; i < P::V; ++i) {
      const int c = (j0 + j) * step + i;
      staged[j][i] = c < left ? p[c * row.stride] : 0;
    }
  }
  memcpy(to, staged, sizeof(staged));
}

template <class P, class T>
__device__ __forceinline__ void store(T* out, const float (&v)[P::E], const Row& row, Slots slots) {
  const int64_t c0 = slots.first + threadIdx.x % 32 * P::V;
  const int left = int(min(row.length - c0, int64_t(P::kTile))), step = opaque(slots.step);
  if (row.vector) {
    T* p = out + row.start + c0;
#pragma unroll
    for (int j = 0; j < P::C; ++j) {
      if (j * step < left) store_vector(p + j * step, rounded<T, P::V>(v + j * P::V));
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

// Asks for a row's columns ahead of time: where one block fills a multiprocessor, no other block's loads hide
// its own.
template <class P, class T>
__device__ __forceinline__ void prefetch(const T* x, const Row& row, Slots slots) {
  constexpr int kLanesPerLine = 128 / (P::V * int(sizeof(T)));
  const int64_t c0 = slots.first + threadIdx.x % 32 * P::V;
  if (!row.vector || threadIdx.x % kLanesPerLine != 0) return;
#pragma unroll
  for (int j = 0; j < P::C; ++j) {
    const int64_t c = c0 + j * slots.step;
    if (c < row.length) asm volatile("prefetch.global.L2 [%0];" ::"l"(x + row.start + c));
  }
}

// The signs of a warp's columns under one key. A lane draws words lane, lane + 32, ... of the warp's
// E words, word t for 32 columns of vector t / V.
template <class P>
struct Signs {
  uint32_t words[(P::E + 31) / 32];

  __device__ __forceinline__ void draw(Key key, uint64_t first, SignAxis axis, Slots slots) {
#pragma unroll
    for (int i = 0; i < (P::E + 31) / 32; ++i) {
      const int t = (i * 32 + int(threadIdx.x % 32)) % P::E;
      words[i] = draw_columns(key, first, axis, slots.first + t / P::V * slots.step + t % P::V * 32);
    }
  }

  __device__ __forceinline__ void flip(float (&v)[P::E]) const {
    const int at = threadIdx.x % 32 * P::V;
#pragma unroll
    for (int j = 0; j < P::C; ++j) {
      const int t = j * P::V;
      const uint32_t signs = __shfl_sync(~0u, words[t / 32], t % 32 + at / 32) >> (at % 32);
#pragma unroll
      for (int i = 0; i < P::V; ++i) {
        const uint32_t sign = (signs << (31 - i)) & 0x80000000u;
        v[t + i] = bit_cast<float>(bit_cast<uint32_t>(v[t + i]) ^ sign);
      }
    }
  }
};

}  // namespace PYDELTA_NAMESPACE
