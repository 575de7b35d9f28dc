#include "lists.cuh"

namespace PYDELTA_NAMESPACE {
namespace {

template <class T, class W>
__global__ void __launch_bounds__(kListThreads)
    sum_squares(const __grid_constant__ Table<2> table, double* partial, float eta, bool weighted) {
  const Chunk chunk = chunk_of(table);
  const T* const x = static_cast<const T*>(table.address[0][chunk.tensor]) + chunk.start;
  const W* const weights = static_cast<const W*>(table.address[1][chunk.tensor]) + chunk.start;
  double lane[kLaneVector] = {};
#pragma unroll 4
  for (int i = int(threadIdx.x) * 4; i < chunk.count; i += kSumLanes) {
    float v[4];
    load_four(v, x + i, chunk.count - i, table.vector);
    if (weighted) {
      float w[4];
      load_four(w, weights + i, chunk.count - i, table.vector);
#pragma unroll
      for (int j = 0; j < 4; ++j) v[j] = __fmul_rn(__fadd_rn(fabsf(w[j]), eta), v[j]);
    }
    add_squares(lane, v);
  }
  const double sum = halve(lane);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// What a launch's tensors get from their chunks.
struct Parts {
  int64_t first[kTensors + 1];
};

__global__ void __launch_bounds__(kListThreads)
    sum_parts(const __grid_constant__ Parts parts, const double* partial, double* sums) {
  const int64_t start = parts.first[blockIdx.x], end = parts.first[blockIdx.x + 1];
  double lane[kLaneVector] = {};
  for (int64_t i = start + threadIdx.x * kLaneVector; i < end; i += kSumLanes) {
#pragma unroll
    for (int j = 0; j < kLaneVector; ++j) {
      if (i + j < end) lane[j] += partial[i + j];
    }
  }
  const double sum = halve(lane);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

}  // namespace

void sum_chunks(const char* op, const std::vector<int64_t>& numels, const double* partial, double* sums,
                Stream stream) {
  int64_t chunk = 0;
  for (size_t start = 0; start < numels.size(); start += kTensors) {
    Parts parts{};
    const int count = int(numels.size() - start < kTensors ? numels.size() - start : kTensors);
    parts.first[0] = chunk;
    for (int t = 0; t < count; ++t) {
      parts.first[t + 1] = chunk += (numels[start + t] + kChunk - 1) / kChunk;
    }
    const auto config = config_of(count, kHalveBytes, stream);
    check(op, cudaLaunchKernelEx(&config, sum_parts, parts, partial, sums + start));
  }
}

void square_sums(const std::vector<int64_t>& numels, const Addresses& xs, const Addresses& weights,
                 double* sums, Dtype dtype, Dtype weight_dtype, float eta, Stream stream) {
  const char* const op = "square_sums";
  const Scratch partial(op, size_t(chunks_in(numels)) * sizeof(double), stream);
  with_type(dtype, [&](auto t) {
    using T = decltype(t);
    const auto run = [&](auto w) {
      using W = decltype(w);
      for_tables<2>(numels, {&xs, &weights}, [&](const Table<2>& table, int chunks, int64_t before) {
        const auto config = config_of(chunks, kHalveBytes, stream);
        check(op, cudaLaunchKernelEx(&config, sum_squares<T, W>, table, partial.as<double>() + before, eta,
                                     !weights.empty()));
      });
    };
    if (weight_dtype == dtype) return run(T{});
    if constexpr (sizeof(T) == 2) run(float{});
  });
  sum_chunks(op, numels, partial.as<double>(), sums, stream);
}

}  // namespace PYDELTA_NAMESPACE
