// Low-bit codes as a source of the walk: elements are fp32, and their signs lie beside them.
#pragma once
#include "launch.cuh"

namespace PYDELTA_NAMESPACE {

// Division of a number below 2^31 by one that is known before the launch (Granlund and Montgomery, 1994).
struct Divisor {
  uint32_t factor = 1;
  int shift = 0;

  explicit Divisor(int64_t by) {
    while (int64_t(1) << shift < by) ++shift;
    factor = uint32_t((uint64_t((int64_t(1) << shift) - by) << 32) / uint64_t(by) + 1);
  }
  __device__ __forceinline__ uint32_t operator()(uint32_t number) const {
    return (__umulhi(number, factor) + number) >> shift;
  }
};

// A tensor of codes as a source: `small` says that its elements are fewer than 2^31.
struct CodedRows {
  Codes q;
  bool small;
  Divisor group;

  explicit CodedRows(const Codes& q)
      : q(q), small(q.rows * q.n <= INT32_MAX), group(max(min(q.group, int64_t(INT32_MAX)), int64_t(1))) {}
};

// The type of the elements that codes stand for; those of one bit have a kernel of their own.
template <bool kOneBit>
struct Coded {};

template <bool kOneBit>
constexpr bool kHoldsSigns<Coded<kOneBit>> = true;

// V elements: scale times level, and their signs, that of element i in bit i.
template <bool kOneBit, int V>
struct Words<Coded<kOneBit>, V> {
  float magnitude[V];
  uint32_t minus;

  // Element i takes the code in the lowest bits.
  __device__ __forceinline__ void decode(int i, uint32_t code, float scale, const Codes& q) {
    const int bits = kOneBit ? 1 : q.bits;
    magnitude[i] = kOneBit || bits == 1 ? scale : __fmul_rn(q.levels[code & ((1u << (bits - 1)) - 1)], scale);
    minus |= (code >> (bits - 1) & 1) << i;
  }
};

template <bool kOneBit, int V>
__device__ __forceinline__ float element(const Words<Coded<kOneBit>, V>& words, int i) {
  return bit_cast<float>(bit_cast<uint32_t>(words.magnitude[i]) ^ ((words.minus << (31 - i)) & 0x80000000u));
}

// f(coded) with the type that so many bits have.
template <class F>
void with_codes(int bits, const F& f) {
  if (bits == 1) {
    f(Coded<true>{});
  } else {
    f(Coded<false>{});
  }
}

// Whether vectors of V codes lie within whole bytes and groups, rows without a gap between them.
template <int V>
bool aligned(const CodedRows& x, size_t) {
  const Codes& q = x.q;
  return q.n * q.bits % 8 == 0 && q.group % V == 0 && q.n <= INT32_MAX &&
         reinterpret_cast<uintptr_t>(q.codes) % 8 == 0;
}

template <int V>
using Chunk = std::conditional_t<V == 8, uint64_t, uint32_t>;

// V codes from element `at` on, a multiple of V: one access.
template <int V>
__device__ __forceinline__ Chunk<V> chunk_at(const uint8_t* codes, int64_t at, int bits) {
  const uint8_t* from = codes + at * bits / 8;
  if (V * bits == 64) return Chunk<V>(*reinterpret_cast<const uint64_t*>(from));
  if (V * bits == 32) return *reinterpret_cast<const uint32_t*>(from);
  if (V * bits == 16) return *reinterpret_cast<const uint16_t*>(from);
  return V * bits == 8 ? *from : *from >> (at * bits % 8);
}

// See load in tile.cuh. The codes and scales of a few vectors are asked for before the first is used.
template <int N, bool kOneBit, int V>
__device__ __forceinline__ void load_codes(Words<Coded<kOneBit>, V>* to, const CodedRows& x, const Row& row,
                                           int64_t c0, int left, int step) {
  constexpr int kGroup = kOneBit ? 4 : 2;
  const Codes& q = x.q;
  const int bits = kOneBit ? 1 : q.bits;
  // Groups are counted from the tensor's start, or from that of a row: it has at most 31 bits.
  const int64_t groups = x.small ? 0 : row.start / q.group;
  const uint32_t counted = uint32_t(x.small ? row.start + c0 : c0);
#pragma unroll
  for (int j0 = 0; j0 < N; j0 += kGroup) {
    Chunk<V> chunk[kGroup];
    float scale[kGroup];
#pragma unroll
    for (int j = 0; j < kGroup; ++j) {
      chunk[j] = 0, scale[j] = 0;
      const int skipped = (j0 + j) * step;
      if (skipped >= left) continue;
      chunk[j] = chunk_at<V>(q.codes, row.start + c0 + skipped, bits);
      scale[j] = q.scales[groups + x.group(counted + skipped)];
    }
#pragma unroll
    for (int j = 0; j < kGroup; ++j) {
      Words<Coded<kOneBit>, V>& words = to[j0 + j];
      words.minus = kOneBit ? uint32_t(chunk[j]) : 0;
#pragma unroll
      for (int i = 0; i < V; ++i) {
        if constexpr (kOneBit) {
          words.magnitude[i] = scale[j];
        } else {
          words.decode(i, uint32_t(chunk[j] >> (i * bits)), scale[j], q);
        }
      }
    }
  }
}

// The same one by one, wherever a code lies.
template <int N, bool kOneBit, int V>
__device__ __forceinline__ void load_each_code(Words<Coded<kOneBit>, V>* to, const Codes& q, const Row& row,
                                               int64_t c0, int left, int step) {
  const int64_t row_bytes = (q.n * q.bits + 7) / 8;
  Words<Coded<kOneBit>, V> staged[N];
#pragma unroll 1
  for (int j = 0; j < N; ++j) {
    staged[j].minus = 0;
#pragma unroll 1
    for (int i = 0; i < V; ++i) {
      staged[j].magnitude[i] = 0;
      if (j * step + i >= left) continue;
      const int64_t at = row.start + c0 + j * step + i, r = at / q.n, bit = (at - r * q.n) * q.bits;
      staged[j].decode(i, q.codes[r * row_bytes + bit / 8] >> (bit % 8), q.scales[at / q.group], q);
    }
  }
  memcpy(to, staged, sizeof(staged));
}

template <class P, int N, bool kOneBit>
__device__ __forceinline__ void load(Words<Coded<kOneBit>, P::V>* to, const CodedRows& x, const Row& row,
                                     Slots slots, int j0) {
  const int64_t c0 = first_column<P>(slots);
  const int skipped = j0 * slots.step, left = columns_left<P>(row, c0) - skipped;
  if (row.vector) {
    load_codes<N>(to, x, row, c0 + skipped, left, slots.step);
  } else {
    load_each_code<N>(to, x.q, row, c0 + skipped, left, slots.step);
  }
}

// Codes are too few to ask for ahead of time.
template <class P>
__device__ __forceinline__ void prefetch(const CodedRows&, const Row&, Slots) {}

}  // namespace PYDELTA_NAMESPACE
