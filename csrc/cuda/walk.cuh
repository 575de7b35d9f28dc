// The one walk over memory: load -> delta -> weight -> flip -> H -> flip -> sum -> emit. An op is a policy:
//   Source, Base        the element types; Source may be codes, see codes.cuh
//   kBase               when its `base` is read: never, for the delta, or for the result
//   kSums               whether models are summed, or there is one alone
//   models, source(k), key(k), delta(x, base, k), result(v, base), out, out_dtype
#pragma once
#include "butterfly.cuh"

namespace PYDELTA_NAMESPACE {

enum class Use { never, delta, result };

// A tensor as rows of columns. Short rows are walked several at a time; then, and where the axis of the
// signs is not the last, a row holds more columns than there are signs.
struct Walk {
  int64_t rows, length, total, stride;
  SignAxis axis;
  int log2_block;
  float scale;
  bool flips;
  uint64_t first_signs, last_signs;
  bool vector;

  __device__ __forceinline__ Row row(int64_t r) const {
    const int64_t start = stride == 1 ? r * length : r / stride * length * stride + r % stride;
    return {start, min(length, total - r * length), stride, vector};
  }
};

// The sum over models, which begins at +0 or at what an earlier launch left. Where registers do not hold it
// beside a tile, each thread keeps its part in shared memory.
template <class P, bool kShared>
struct Sum {
  float in_registers[kShared ? 1 : P::E];
  float4* in_shared;

  __device__ __forceinline__ void start(const float (&v)[P::E]) {
    if constexpr (kShared) {
#pragma unroll
      for (int j = 0; j < P::C; ++j) memcpy(&in_shared[j * P::kThreads + threadIdx.x], &v[j * 4], 16);
    } else {
#pragma unroll
      for (int i = 0; i < P::E; ++i) in_registers[i] = v[i];
    }
  }

  // v becomes the sum so far.
  __device__ __forceinline__ void add(float (&v)[P::E]) {
#pragma unroll
    for (int j = 0; j < P::C; ++j) {
      float so_far[P::V];
      if constexpr (kShared) {
        const float4 vector = in_shared[j * P::kThreads + threadIdx.x];
        memcpy(so_far, &vector, 16);
      }
#pragma unroll
      for (int i = 0; i < P::V; ++i) {
        if constexpr (!kShared) so_far[i] = in_registers[j * P::V + i];
        v[j * P::V + i] = __fadd_rn(so_far[i], v[j * P::V + i]);
      }
    }
    start(v);
  }
};

// What a kernel keeps in shared memory: a tile of sums, then the room for one exchange, which goes in pieces
// where all at once would be more than a thread block may have (99 KiB on many devices, 163 KiB with sums).
template <class Op, class P>
struct Shared {
  static constexpr bool kSums = Op::kSums && P::kHadamard && P::E > 32;
  static constexpr int kPiece = kSums ? 1 : P::kTile > 16384 ? 2 : 4;
  static constexpr int kSumBytes = kSums ? P::kTile * 4 : 0;
  static constexpr int kExchangeBytes = P::kTile / P::V * kPiece * 4;
};

template <class P>
__device__ __forceinline__ void emit(void* out, Dtype dtype, const float (&v)[P::E], const Row& row,
                                     Slots slots) {
  if (dtype == Dtype::f32) store<P>(static_cast<float*>(out), v, row, slots);
  if (dtype == Dtype::bf16) store<P>(static_cast<bf16*>(out), v, row, slots);
  if (dtype == Dtype::f16) store<P>(static_cast<f16*>(out), v, row, slots);
}

// v[i] = f(v[i], base[i]), where the base is not in registers yet: a few vectors at a time.
template <class P, class T, class F>
__device__ __forceinline__ void with_base(float (&v)[P::E], const T* x, const Row& row, Slots slots,
                                          const F& f) {
  constexpr int kGroup = 4;
#pragma unroll
  for (int j0 = 0; j0 < P::C; j0 += kGroup) {
    Words<T, P::V> base[kGroup];
    load<P, kGroup>(base, x, row, slots, j0);
#pragma unroll
    for (int i = 0; i < kGroup * P::V; ++i)
      v[j0 * P::V + i] = f(v[j0 * P::V + i], element(base[i / P::V], i % P::V));
  }
}

// How many threads a multiprocessor should hold at once: as many as the registers that an op needs allow.
template <class Op, class P>
constexpr int kResident = Op::kSums || P::E > 32    ? 512
                          : Op::kBase == Use::never ? 1024
                                                    : 768;

// A block owns one stripe of columns and takes every gridDim.y-th row of it, so the signs of an op with one
// key are drawn once.
template <class Op, class P>
__global__ void __launch_bounds__(P::kThreads, kResident<Op, P> / P::kThreads)
    walk(const __grid_constant__ Op op, const __grid_constant__ Walk g) {
  using S = Shared<Op, P>;
  // Butterflies leave no registers to spare: then the base comes when it is used, again and again from the
  // cache.
  constexpr bool kBaseStays = Op::kBase != Use::never && !P::kHadamard;
  constexpr bool kSignsApart = kHoldsSigns<typename Op::Source>;
  extern __shared__ float4 shared[];
  const bool alone = !P::kHadamard || g.log2_block <= Bits<P>::kWarp;  // warps work each for itself
  const auto before = [] { return own_slots<P>(); };
  const auto after = [&] { return alone ? own_slots<P>() : dealt_slots<P>(); };
  float* const exchanged = reinterpret_cast<float*>(shared) + S::kSumBytes / 4;
  Sum<P, S::kSums> sum;
  sum.in_shared = shared;
  Signs<P> first, last;
  const auto draw = [&](Key key) {
    if (!g.flips) return;
    first.draw(key, g.first_signs, g.axis, before());
    if constexpr (P::kHadamard) last.draw(key, g.last_signs, g.axis, after());
  };
  if constexpr (!Op::kSums) draw(op.key(0));

  for (int64_t r = blockIdx.y; r < g.rows; r += gridDim.y) {
    const Row row = g.row(r);
    if (alone && int64_t(blockIdx.x) * P::kTile + before().first >= row.length) continue;
    Words<typename Op::Source, P::V> source[P::C];
    Words<typename Op::Base, P::V> base[P::C];
    float v[P::E];
    if constexpr (Op::kSums) {
#pragma unroll
      for (int i = 0; i < P::E; ++i) v[i] = 0;
      if (op.carry != nullptr) with_base<P>(v, op.carry, row, after(), [](float, float sum) { return sum; });
      sum.start(v);
    }
    if constexpr (kBaseStays) load<P, P::C>(base, op.base, row, before(), 0);
    for (int k = 0; k < op.models(); ++k) {
      if (!P::kHadamard && k == 0) load<P, P::C>(source, op.source(0), row, before(), 0);
      if constexpr (Op::kSums) draw(op.key(k));
      if constexpr (P::kHadamard) load<P, P::C>(source, op.source(k), row, before(), 0);
      if constexpr (kSignsApart) {
        if (g.flips) first.flip(source);
      }
#pragma unroll
      for (int i = 0; i < P::E; ++i) v[i] = element(source[i / P::V], i % P::V);
      const auto delta = [&](float x, float b) { return op.delta(x, b, k); };
      if constexpr (kBaseStays) {
#pragma unroll
        for (int i = 0; i < P::E; ++i) v[i] = delta(v[i], element(base[i / P::V], i % P::V));
      } else if constexpr (Op::kBase == Use::delta) {
        with_base<P>(v, op.base, row, before(), delta);
      }
      if constexpr (!P::kHadamard) {
        if (k + 1 < op.models()) load<P, P::C>(source, op.source(k + 1), row, before(), 0);
      } else if constexpr (P::E > 32) {
        if (k + 1 < op.models()) {
          prefetch<P>(op.source(k + 1), row, before());
        } else if (r + gridDim.y < g.rows) {
          prefetch<P>(op.source(0), g.row(r + gridDim.y), before());
        }
        if constexpr (Op::kBase == Use::result) prefetch<P>(op.base, row, after());
      }
      if (g.flips && !kSignsApart) first.flip(v);
      if constexpr (P::kHadamard) {
        butterflies<P, S::kPiece>(v, g.log2_block, exchanged);
#pragma unroll
        for (int i = 0; i < P::E; ++i) v[i] = __fmul_rn(v[i], g.scale);
        if (g.flips) last.flip(v);
      }
      if constexpr (Op::kSums) sum.add(v);
    }
    const Row again = g.row(opaque(r));  // rather than in registers all the time
    const auto result = [&](float x, float b) { return op.result(x, b); };
    if constexpr (kBaseStays) {
#pragma unroll
      for (int i = 0; i < P::E; ++i) v[i] = result(v[i], element(base[i / P::V], i % P::V));
    } else if constexpr (Op::kBase == Use::result) {
      with_base<P>(v, op.base, again, after(), result);
    }
    emit<P>(op.out, op.out_dtype, v, again, after());
  }
}

}  // namespace PYDELTA_NAMESPACE
