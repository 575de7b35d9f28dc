// The Walsh-Hadamard transform of a tile, stage by stage with ascending distance: the order is the contract
// that makes every backend's bits the same.
#pragma once
#include "tile.cuh"

namespace PYDELTA_NAMESPACE {

constexpr int log2_of(int power) { return power == 1 ? 0 : 1 + log2_of(power / 2); }

// Which bits of an element's place in the tile choose what: V in the vector, 32 lanes, C vectors, warps.
template <class P>
struct Bits {
  static constexpr int kVector = log2_of(P::V);
  static constexpr int kLane = kVector + 5;           // from here on the number of the slot
  static constexpr int kWarp = kLane + log2_of(P::C);  // larger blocks do not fit in a warp
  static constexpr int kTile = kWarp + log2_of(P::kWarps);
};

// a + b and a - b of every two registers whose numbers differ in one bit.
template <int E>
__device__ __forceinline__ void in_registers(float (&v)[E], int bit) {
#pragma unroll
  for (int i = 0; i < E; ++i) {
    if (i >> bit & 1) continue;
    const float a = v[i], b = v[i | 1 << bit];
    v[i] = __fadd_rn(a, b);
    v[i | 1 << bit] = __fsub_rn(a, b);
  }
}

// The same between lanes. +-1 times a number is exact, so this product and sum round once, as a sum does.
template <int E>
__device__ __forceinline__ void in_lanes(float (&v)[E], int mask) {
  const float side = threadIdx.x & mask ? -1.0f : 1.0f;
#pragma unroll
  for (int i = 0; i < E; ++i) v[i] = __fmaf_rn(v[i], side, __shfl_xor_sync(~0u, v[i], mask));
}

// Before, warp w holds slots w C .. w C + C - 1, after it slots w, w + warps, w + 2 warps, ... Lanes stay
// where they are, so that a warp writes and reads side by side and no bank is met twice. `kPiece` of a
// vector's elements go at a time, through kThreads * C * kPiece floats.
template <class P, int kPiece>
__device__ __forceinline__ void exchange(float (&v)[P::E], float* shared) {
  static_assert(P::kWarps <= P::C, "one exchange must bring a whole block into a thread's reach");
  using Piece = std::conditional_t<kPiece == 4, float4, float>;
  Piece* slots = reinterpret_cast<Piece*>(shared);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int i = 0; i < P::V; i += kPiece) {
    __syncthreads();  // the previous readers are done
#pragma unroll
    for (int j = 0; j < P::C; ++j) {
      Piece piece;
      memcpy(&piece, &v[j * P::V + i], sizeof(piece));
      slots[(warp * P::C + j) * 32 + lane] = piece;
    }
    __syncthreads();
#pragma unroll
    for (int j = 0; j < P::C; ++j) {
      const Piece piece = slots[(j * P::kWarps + warp) * 32 + lane];
      memcpy(&v[j * P::V + i], &piece, sizeof(piece));
    }
  }
}

// Blocks of 2 ** log2_block columns; those larger than a warp's share leave in another order, see exchange.
template <class P, int kPiece>
__device__ __forceinline__ void butterflies(float (&v)[P::E], int log2_block, float* shared) {
  using B = Bits<P>;
#pragma unroll
  for (int s = 0; s < B::kVector; ++s) {
    if (log2_block > s) in_registers(v, s);
  }
#pragma unroll
  for (int s = B::kVector; s < B::kLane; ++s) {
    if (log2_block > s) in_lanes(v, 1 << (s - B::kVector));
  }
#pragma unroll
  for (int s = B::kLane; s < B::kWarp; ++s) {
    if (log2_block > s) in_registers(v, s - B::kLane + B::kVector);
  }
  if (log2_block <= B::kWarp) return;
  exchange<P, kPiece>(v, shared);
#pragma unroll
  for (int s = B::kWarp; s < B::kTile; ++s) {
    // Slot j * warps + warp is now in vector j.
    if (log2_block > s) in_registers(v, s - B::kLane - (B::kTile - B::kWarp) + B::kVector);
  }
}

}  // namespace PYDELTA_NAMESPACE
