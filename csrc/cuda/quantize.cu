// Low-bit codes of groups. A team of threads has a group: it goes through 64 neighbours at a time, 16 bytes a
// thread, and each of the 64 adds to a sum of its own, as on every backend.
#include "codes.cuh"
#include "scratch.cuh"

namespace PYDELTA_NAMESPACE {
namespace {

constexpr const char* kOp = "quantize";
constexpr int kLanes = 64;    // sums of a group
constexpr int kThreads = 64;  // of a block, of which a multiprocessor should hold 8
constexpr int kBlocks = 8;
constexpr int kAhead = 8;  // vectors that a thread asks for at once

template <int kBytes>
using UnsignedOf = std::conditional_t<
    kBytes == 1, uint8_t,
    std::conditional_t<kBytes == 2, uint16_t, std::conditional_t<kBytes == 4, uint32_t, uint64_t>>>;

// A tensor and where its codes go.
template <class T, int bits>
struct Coding {
  static constexpr int V = 16 / int(sizeof(T)), kTeam = kLanes / V;
  static constexpr int kLevels = 1 << (bits - 1), kBytes = V * bits < 8 ? 1 : V * bits / 8;
  using Packed = UnsignedOf<kBytes>;  // the codes of a vector
  // Elements whose codes fill whole bytes. Two threads may share a byte.
  static constexpr int kTogether = V * bits < 8 ? 8 : V;

  const T* x;
  Codes q;
  int64_t groups, group_bytes;
  float* rms;  // of each group, for pack_bytes; null where groups fill whole bytes
  bool vector;

  // Calls f(j, v) for the elements j .. j + V - 1 of a group, step by step; zeros follow the last one.
  template <class F>
  __device__ __forceinline__ void each(int64_t group, const F& f) const {
    const Row row{group * q.group, group < groups ? q.group : 0, 1, vector};
    for (int64_t step = 0; step < q.group; step += kAhead * kLanes) {
      const int64_t j = step + threadIdx.x % kTeam * V;
      const int left = int(min(max(row.length - j, int64_t(0)), int64_t(kAhead * kLanes)));
      Words<T, V> words[kAhead];
      load_vectors<kAhead>(words, x, row, j, left, kLanes);
#pragma unroll
      for (int k = 0; k < kAhead; ++k) {
        if (step + k * kLanes >= q.group) break;
        float v[V];
#pragma unroll
        for (int i = 0; i < V; ++i) v[i] = element(words[k], i);
        f(j + k * kLanes, v);
      }
    }
  }

  // The codes of |v| among those of its sign: how many of the thresholds it exceeds.
  template <int N>
  __device__ __forceinline__ void indices(const float (&v)[N], float rms, uint32_t (&index)[N]) const {
#pragma unroll
    for (int i = 0; i < N; ++i) index[i] = 0;
#pragma unroll
    for (uint32_t half = kLevels / 2; half > 0; half /= 2) {
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const float threshold = __fmul_rn(q.thresholds[index[i] + half - 1], rms);
        index[i] += fabsf(v[i]) > threshold ? half : 0;
      }
    }
  }

  __device__ __forceinline__ static uint32_t code(float v, uint32_t index) {
    return index | bit_cast<uint32_t>(v) >> 31 << (bits - 1);
  }

  // Writes the codes of the elements from j on, which this thread holds. All threads of a warp come along.
  __device__ __forceinline__ void store(int64_t group, int64_t j, Packed packed) const {
    if constexpr (kTogether > V) packed |= __shfl_xor_sync(~0u, uint32_t(packed), 1) << (V * bits);
    if (rms != nullptr || group >= groups || j >= q.group || j % kTogether != 0) return;
    uint8_t* to = q.codes + group * group_bytes + j * bits / 8;
    if (vector) {
      *reinterpret_cast<Packed*>(to) = packed;
      return;
    }
    const int left = int(min(q.group - j, int64_t(kTogether)));
#pragma unroll
    for (int k = 0; k * 8 < kTogether * bits; ++k) {
      if (k * 8 < left * bits) to[k] = uint8_t(packed >> k * 8);
    }
  }

  __device__ __forceinline__ void finish(int64_t group, double square, double projection) const {
    if (group >= groups || threadIdx.x % kTeam != 0) return;
    q.scales[group] = square == 0 ? 0.0f : float(square / projection);
  }
};

// Lane l takes lane l + 32, then l + 16, ...: first those of other threads, then a thread's own.
template <int V>
__device__ __forceinline__ double folded(double (&lane)[V]) {
#pragma unroll
  for (int mask = kLanes / V / 2; mask > 0; mask /= 2) {
#pragma unroll
    for (int i = 0; i < V; ++i) lane[i] += __shfl_xor_sync(~0u, lane[i], mask);
  }
#pragma unroll
  for (int half = V / 2; half > 0; half /= 2) {
#pragma unroll
    for (int i = 0; i < half; ++i) lane[i] += lane[i + half];
  }
  return lane[0];
}

// A product of two fp32 is exact in fp64, so it may be fused with the sum.
__device__ __forceinline__ void add_product(double& sum, double a, double b) { sum = __fma_rn(a, b, sum); }

// One bit: the sums need no codes, so one pass is enough.
template <class T>
__device__ __forceinline__ void code_group(const Coding<T, 1>& op, int64_t group) {
  constexpr int V = Coding<T, 1>::V;
  double square[V] = {}, magnitude[V] = {};
  op.each(group, [&](int64_t j, const float (&v)[V]) {
    uint8_t packed = 0;
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const double wide = v[i];
      add_product(square[i], wide, wide);
      magnitude[i] += fabs(wide);
      packed |= op.code(v[i], 0) << i;
    }
    op.store(group, j, packed);
  });
  op.finish(group, folded(square), folded(magnitude));
}

// The root mean square first; then codes, and what x has of their levels.
template <class T, int bits>
__device__ __forceinline__ void code_group(const Coding<T, bits>& op, int64_t group) {
  constexpr int V = Coding<T, bits>::V;
  using Packed = typename Coding<T, bits>::Packed;
  double lane[V] = {};
  op.each(group, [&](int64_t, const float (&v)[V]) {
#pragma unroll
    for (int i = 0; i < V; ++i) add_product(lane[i], v[i], v[i]);
  });
  const double square = folded(lane);
  const float rms = float(sqrt(square / double(op.q.group)));
  if (op.rms != nullptr && group < op.groups) op.rms[group] = rms;
#pragma unroll
  for (int i = 0; i < V; ++i) lane[i] = 0;
  op.each(group, [&](int64_t j, const float (&v)[V]) {
    uint32_t index[V];
    op.indices(v, rms, index);
    Packed packed = 0;
#pragma unroll
    for (int i = 0; i < V; ++i) {
      add_product(lane[i], fabsf(v[i]), op.q.levels[index[i]]);
      packed |= Packed(Packed(op.code(v[i], index[i])) << (i * bits));
    }
    op.store(group, j, packed);
  });
  op.finish(group, square, folded(lane));
}

template <class T, int bits>
__global__ void __launch_bounds__(kThreads, kBlocks) code_groups(const __grid_constant__ Coding<T, bits> op) {
  constexpr int kTeam = Coding<T, bits>::kTeam, kTeams = kThreads / kTeam;
  for (int64_t first = blockIdx.x * int64_t(kTeams); first < op.groups;
       first += gridDim.x * int64_t(kTeams)) {
    code_group(op, first + threadIdx.x / kTeam);
  }
}

// The codes of groups that do not fill whole bytes: a thread makes a byte.
template <class T, int bits>
__global__ void __launch_bounds__(kThreads, kBlocks) pack_bytes(const __grid_constant__ Coding<T, bits> op) {
  constexpr int kEach = 8 / bits;
  const int64_t row_bytes = (op.q.n * bits + 7) / 8, all = op.q.rows * row_bytes;
  for (int64_t at = blockIdx.x * int64_t(kThreads) + threadIdx.x; at < all;
       at += gridDim.x * int64_t(kThreads)) {
    const int64_t row = at / row_bytes, start = row * op.q.n + (at - row * row_bytes) * kEach;
    uint32_t packed = 0;
    for (int64_t i = start; i < min(start + kEach, (row + 1) * op.q.n); ++i) {
      uint32_t word = 0, index[1];
      memcpy(&word, op.x + i, sizeof(T));
      const float v[1] = {unpack<T>(word, 0)};
      op.indices(v, bits > 1 ? op.rms[i / op.q.group] : 0, index);
      packed |= op.code(v[0], index[0]) << (i - start) * bits;
    }
    op.q.codes[at] = uint8_t(packed);
  }
}

template <class T, int bits>
void quantize_as(const void* x, const Codes& q, Stream stream) {
  using Op = Coding<T, bits>;
  constexpr int kTeams = kThreads / Op::kTeam;
  const int64_t groups = q.rows * (q.n / q.group), bytes = q.rows * ((q.n * bits + 7) / 8);
  const bool whole = q.group == q.n || q.group * bits % 8 == 0;
  const Scratch rms(kOp, whole ? 0 : size_t(groups) * sizeof(float), stream);
  const bool vector = q.group % Op::V == 0 && aligned<Op::V>(x, sizeof(T));
  const Op op{static_cast<const T*>(x), q, groups, (q.group * bits + 7) / 8, rms.as<float>(), vector};
  const int64_t processors = attribute(kOp, cudaDevAttrMultiProcessorCount);
  const auto start_on = [&](int64_t blocks, auto kernel) {
    start(kOp, kernel, {dim3(unsigned(blocks)), kThreads}, stream, op);
  };
  int64_t blocks = min((groups + kTeams - 1) / kTeams, processors * (2048 / kThreads));
  if (bits > 1) {  // as many groups at a time as the second pass finds in half of the second-level cache
    const int64_t held = attribute(kOp, cudaDevAttrL2CacheSize) / 2 / (q.group * kTeams * int64_t(sizeof(T)));
    blocks = min(blocks, max(held, processors));
  }
  start_on(blocks, code_groups<T, bits>);
  if (!whole) start_on(min((bytes + kThreads - 1) / kThreads, processors * 32), pack_bytes<T, bits>);
}

}  // namespace

void quantize(const void* x, Dtype dtype, const Codes& q, Stream stream) {
  if (q.rows * q.n == 0) return;
  with_type(dtype, [&](auto type) {
    using T = decltype(type);
    if (q.bits == 1) quantize_as<T, 1>(x, q, stream);
    if (q.bits == 2) quantize_as<T, 2>(x, q, stream);
    if (q.bits == 4) quantize_as<T, 4>(x, q, stream);
    if (q.bits == 8) quantize_as<T, 8>(x, q, stream);
  });
}

}  // namespace PYDELTA_NAMESPACE
