// From a tensor's shape to a walk, and from a walk to a launch.
#pragma once
#include <cmath>
#include <stdexcept>

#include "ops.h"
#include "walk.cuh"

namespace PYDELTA_NAMESPACE {

// What to walk over, and what is done on the way.
struct Task {
  const char* op;
  Axis axis;
  Transform transform;
  int64_t block = 1;
  double scale = 1;
  bool flips = true;
  bool inverse = false;

  int64_t numel() const { return axis.outer * axis.n * axis.inner; }
};

inline void check(const char* op, cudaError_t error) {
  if (error == cudaSuccess) return;
  throw std::runtime_error(std::string("[") + op +
                           "] the CUDA kernel could not run: " + cudaGetErrorString(error));
}

// A grid of blocks of so many threads, with bytes of shared memory each.
struct Grid {
  dim3 blocks;
  int threads;
  size_t shared = 0;
};

template <class... Parameters, class... Arguments>
void start(const char* op, void (*kernel)(Parameters...), const Grid& grid, Stream stream,
           const Arguments&... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid.blocks;
  config.blockDim = dim3(unsigned(grid.threads));
  config.dynamicSmemBytes = grid.shared;
  config.stream = reinterpret_cast<cudaStream_t>(stream);
  check(op, cudaLaunchKernelEx(&config, kernel, arguments...));
}

// What the current device has of something.
inline int64_t attribute(const char* op, cudaDeviceAttr which) {
  int device, value;
  check(op, cudaGetDevice(&device));
  check(op, cudaDeviceGetAttribute(&value, which, device));
  return value;
}

// How many rows to walk as one, so that tiles are full but for a sixteenth and rows begin at whole vectors.
inline int64_t rows_at_once(int64_t rows, int64_t n, int64_t tile) {
  const int64_t few = n < tile ? tile / n : 1;
  int64_t best = few;
  double best_cost = 1e9;
  for (int64_t m = few; m <= 8 * few; m += few) {
    const int64_t columns = m * n, tiles = (columns + tile - 1) / tile;
    const double waste = 1 - double(columns) / double(tiles * tile);
    const double cost = (waste > 1.0 / 16 ? waste : 0) + (columns % 8 == 0 ? 0 : 1);
    if (cost < best_cost) best = m, best_cost = cost;
  }
  return best < rows ? best : rows;
}

inline Walk walk_of(const Task& task, int64_t tile) {
  const auto [outer, n, inner] = task.axis;
  const bool hadamard = task.transform == Transform::hadamard;
  Walk g{};
  g.total = task.numel();
  g.stride = 1;
  g.axis = {n, 1};
  if (inner == 1) {
    const int64_t together = rows_at_once(outer, n, tile);
    g.rows = (outer + together - 1) / together;
    g.length = together * n;
  } else if (hadamard) {  // one row for each column of the tensor, gathered
    g.rows = outer * inner;
    g.length = n;
    g.stride = inner;
  } else {
    g.rows = 1;
    g.length = g.total;
    g.axis.inner = inner;
  }
  while (int64_t(1) << g.log2_block < task.block) ++g.log2_block;
  g.scale = float(task.scale);
  g.flips = task.flips && task.transform != Transform::none;
  g.first_signs = hadamard && task.inverse ? kOuterSigns : 0;
  g.last_signs = task.inverse ? 0 : kOuterSigns;
  return g;
}

// Whether vectors of V elements of a type lie at addresses that may be loaded at once.
template <int V>
bool aligned(const void* p, size_t element_size) {
  return reinterpret_cast<uintptr_t>(p) % (V * element_size < 16 ? V * element_size : 16) == 0;
}

inline size_t size_of(Dtype dtype) { return dtype == Dtype::f32 ? 4 : 2; }

template <class Kernel>
void allow_shared(const Task& task, Kernel kernel, size_t bytes) {
  const int64_t most = attribute(task.op, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  if (bytes > size_t(most)) {
    throw std::runtime_error("[" + std::string(task.op) + "] blocks of " + std::to_string(task.block) +
                             " need " + std::to_string(bytes >> 10) +
                             " KiB of shared memory, got a device with " + std::to_string(most >> 10) +
                             " KiB");
  }
  check(task.op, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)));
}

template <class P, class Op>
void launch(const Task& task, const Op& op, Stream stream) {
  if (task.numel() == 0) return;
  Walk g = walk_of(task, P::kTile);
  g.vector = g.stride == 1 && g.length % P::V == 0 && g.total % P::V == 0 && op.template aligned_for<P::V>();

  const int64_t stripes = (g.length + P::kTile - 1) / P::kTile;
  const int64_t resident = attribute(task.op, cudaDevAttrMultiProcessorCount) * (2048 / P::kThreads);
  int64_t deep = resident / stripes > 1 ? resident / stripes : 1;
  if (deep > g.rows) deep = g.rows;
  if (deep > 65535) deep = 65535;

  size_t shared = 0;
  if constexpr (P::kHadamard) {
    using S = Shared<Op, P>;
    shared = S::kSumBytes + (g.log2_block > Bits<P>::kWarp ? S::kExchangeBytes : 0);
    if (shared > 48 << 10) allow_shared(task, walk<Op, P>, shared);
  }
  const Grid grid{dim3(unsigned(stripes), unsigned(deep)), P::kThreads, shared};
  start(task.op, walk<Op, P>, grid, stream, op, g);
}

// Vectors of 16 bytes in the wider of the op's types. Four a thread, fewer where as many of a base come with
// them; codes take next to no room.
template <class Op>
void run_elements(const Task& task, const Op& op, Stream stream) {
  constexpr bool kCodes = kHoldsSigns<typename Op::Source>;
  constexpr bool kWide = sizeof(typename Op::Source) == 4 || sizeof(typename Op::Base) == 4;
  constexpr int kVector = kWide ? 4 : 8, kVectors = Op::kBase == Use::result && !kCodes ? 16 / kVector : 4;
  launch<Plan<kVector, kVectors, 256, false>>(task, op, stream);
}

// Vectors of four elements, for every type, so that more of a block's bits choose a register. Blocks up to
// 1024 fit in a warp, up to 8192 in a light thread block; one of 32768 takes half the registers of a
// multiprocessor.
template <class Op>
void run_blocks(const Task& task, const Op& op, Stream stream) {
  if (task.block <= 8192) return launch<Plan<4, 8, 256, true>>(task, op, stream);
  if constexpr (Op::kBase != Use::result) {  // retrieve does without: one kernel less to build for each type
    if (task.block <= 16384) return launch<Plan<4, 16, 256, true>>(task, op, stream);
  }
  launch<Plan<4, 16, 512, true>>(task, op, stream);
}

template <class Op>
void run(const Task& task, const Op& op, Stream stream) {
  if (task.transform == Transform::hadamard) {
    run_blocks(task, op, stream);
  } else {
    run_elements(task, op, stream);
  }
}

template <class F>
void with_type(Dtype dtype, const F& f) {
  if (dtype == Dtype::f32) f(float{});
  if (dtype == Dtype::bf16) f(bf16{});
  if (dtype == Dtype::f16) f(f16{});
}

inline double orthonormal(int64_t block) { return 1 / std::sqrt(double(block)); }

}  // namespace PYDELTA_NAMESPACE
