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
  static constexpr int kLane = kVector + 5;            // from here on the number of the slot
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
  const float side = lane() & mask ? -1.0f : 1.0f;
#pragma unroll
  for (int i = 0; i < E; ++i) v[i] = __fmaf_rn(v[i], side, __shfl_xor_sync(~0u, v[i], mask));
}

// Before, warp w holds slots w C .. w C + C - 1, after it slots w, w + warps, w + 2 warps, ... Lanes stay
// where they are, so that a warp writes and reads side by side and no bank is met twice. `kPiece` of a
// vector's elements go at a time, through kThreads * C * kPiece floats.
template <class P, int kPiece>
__device__ __forceinline__ void exchange(float (&v)[P::E], float* shared) {
  static_assert(P::kWarps <= P::C, "one exchange must bring a whole block into a thread's reach");
  using Piece = std::conditional_t<kPiece == 4, float4, std::conditional_t<kPiece == 2, float2, float>>;
  Piece* slots = reinterpret_cast<Piece*>(shared);
  const int own = warp() * P::C * 32 + lane(), dealt = warp() * 32 + lane();
#pragma unroll
  for (int i = 0; i < P::V; i += kPiece) {
    __syncthreads();  // the previous readers are done
#pragma unroll
    for (int j = 0; j < P::C; ++j) {
      Piece piece;
      memcpy(&piece, &v[j * P::V + i], sizeof(piece));
      slots[own + j * 32] = piece;
    }
    __syncthreads();
#pragma unroll
    for (int j = 0; j < P::C; ++j) {
      const Piece piece = slots[dealt + j * P::kWarps * 32];
      memcpy(&v[j * P::V + i], &piece, sizeof(piece));
    }
  }
}

// Those of the stages kFirst .. kLast - 1 that a block has. Mostly it has all, and then the code is straight:
// registers need not be where they were at every turn.
template <int kFirst, int kLast, class Stage>
__device__ __forceinline__ void stages(int log2_block, const Stage& stage) {
  if (log2_block >= kLast) {
#pragma unroll
    for (int s = kFirst; s < kLast; ++s) stage(s);
  } else {
#pragma unroll
    for (int s = kFirst; s < kLast; ++s) {
      if (log2_block > s) stage(s);
    }
  }
}

// Blocks of 2 ** log2_block columns; those larger than a warp's share leave in another order, see exchange.
template <class P, int kPiece>
__device__ __forceinline__ void butterflies(float (&v)[P::E], int log2_block, float* shared) {
  using B = Bits<P>;
  stages<0, B::kLane>(log2_block, [&](int s) {
    if (s < B::kVector) {
      in_registers(v, s);
    } else {
      in_lanes(v, 1 << (s - B::kVector));
    }
  });
  stages<B::kLane, B::kWarp>(log2_block, [&](int s) { in_registers(v, s - B::kLane + B::kVector); });
  if (log2_block <= B::kWarp) return;
  exchange<P, kPiece>(v, shared);
  // Slot j * warps + warp is now in vector j.
  constexpr int kMoved = B::kLane + (B::kTile - B::kWarp) - B::kVector;
  stages<B::kWarp, B::kTile>(log2_block, [&](int s) { in_registers(v, s - kMoved); });
}

}  // namespace PYDELTA_NAMESPACE
