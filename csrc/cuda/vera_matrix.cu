#include "launch.cuh"
#include "mask.cuh"

namespace PYDELTA_NAMESPACE {

namespace {

constexpr int kThreads = 256;

// Uniform in [-1, 1), exact in fp32: the draw's upper 24 bits as a signed integer, times a power of two.
__device__ __forceinline__ float centred(uint32_t draw) {
  return float(int32_t(draw ^ 0x80000000u) >> 8) * 0x1p-23f;
}

// A thread makes 16 bytes of a row at a time, in every row that is its block's.
template <class T>
__global__ void __launch_bounds__(kThreads)
    fill_matrix(T* out, int64_t rows, int64_t columns, uint64_t first, Key key, bool vector) {
  constexpr int V = 16 / int(sizeof(T));
  const int64_t column = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * V;
  if (column >= columns) return;
  for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    uint32_t draws[V];
    draw(draws, key, first + (uint64_t(row) << 32) + uint64_t(column));
    float values[V];
#pragma unroll
    for (int i = 0; i < V; ++i) values[i] = centred(draws[i]);
    const Words<T, V> words = rounded<T, V>(values);
    T* const to = out + row * columns + column;
    if (vector) {
      store_vector(to, words);
      continue;
    }
    constexpr int kPerWord = 4 / int(sizeof(T));
#pragma unroll
    for (int i = 0; i < V; ++i) {
      if (column + i >= columns) break;
      const uint32_t word = words.w[i / kPerWord] >> (i % kPerWord * 16);
      reinterpret_cast<Unsigned<T>*>(to)[i] = Unsigned<T>(word);
    }
  }
}

}  // namespace

void vera_matrix(void* out, Dtype dtype, int64_t rows, int64_t columns, uint64_t first, Key key,
                 Stream stream) {
  if (rows * columns == 0) return;
  with_type(dtype, [&](auto type) {
    using T = decltype(type);
    constexpr int V = 16 / int(sizeof(T));
    const int64_t across = (columns + V * kThreads - 1) / (V * kThreads);
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(unsigned(across), unsigned(rows < 65535 ? rows : 65535));
    config.blockDim = dim3(kThreads);
    config.stream = reinterpret_cast<cudaStream_t>(stream);
    const bool vector = columns % V == 0 && aligned<V>(out, sizeof(T));
    check("vera_matrix", cudaLaunchKernelEx(&config, fill_matrix<T>, static_cast<T*>(out), rows, columns,
                                            first, key, vector));
  });
}

}  // namespace PYDELTA_NAMESPACE
