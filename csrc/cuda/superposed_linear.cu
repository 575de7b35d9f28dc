// Products of a few activations with low-bit codes, which are expanded in registers. Every launch takes up to
// eight rows with their keys; a warp's lanes go along the columns, side by side for a few output features.
#include <algorithm>

#include "launch.cuh"
#include "select.cuh"

namespace PYDELTA_NAMESPACE {
namespace {

constexpr const char* kOp = "superposed_linear";
constexpr int kThreads = 256, kRows = 8, kOutputs = 4;
constexpr int kColumns = 1024;     // of all rows in shared memory at a time: 32 KiB
constexpr int kSignColumns = 128;  // signs that one block of Philox gives
constexpr int kMostLevels = 128;

struct Row {
  Key key;
  float lam;
};

struct Rows {
  Row row[kRows];
  int count;
  bool flips;
};

template <class T>
__device__ __forceinline__ float get(const T* p) {
  if constexpr (sizeof(T) == 4) {
    return *p;
  } else {
    return unpack<T>(p->bits, 0);
  }
}

template <class T>
__device__ __forceinline__ void put(T* p, float value) {
  if constexpr (sizeof(T) == 4) {
    *p = value;
  } else {
    p->bits = uint16_t(pack<T>(value, 0.0f));
  }
}

// The activations of columns first .. first + kColumns with their signs; zeros beyond the last column.
template <class T>
__device__ __forceinline__ void stage(const T* x, const Rows& rows, int64_t n, int64_t first, float* to) {
  constexpr int kUnits = kRows * kColumns / kSignColumns;
  for (int unit = warp(); unit < kUnits; unit += kThreads / 32) {
    const int r = unit / (kColumns / kSignColumns), at = unit % (kColumns / kSignColumns) * kSignColumns;
    const bool present = r < rows.count;
    Words4 signs{};
    if (present && rows.flips) signs = philox4x32(rows.row[r].key, uint64_t((first + at) / kSignColumns));
#pragma unroll
    for (int i = 0; i < kSignColumns / 32; ++i) {
      const int64_t j = first + at + i * 32 + lane();
      const float v = present && j < n ? get(x + r * n + j) : 0.0f;
      const uint32_t minus = signs.w[i] >> lane() << 31;
      to[r * kColumns + at + i * 32 + lane()] = bit_cast<float>(bit_cast<uint32_t>(v) ^ minus);
    }
  }
}

template <int bits>
__device__ __forceinline__ float value_of(uint32_t code, const float* levels) {
  const uint32_t minus = code >> (bits - 1) << 31;
  const float level = bits == 1 ? 1.0f : levels[code & ((1u << (bits - 1)) - 1)];
  return bit_cast<float>(bit_cast<uint32_t>(level) ^ minus);
}

// out[r, o] += lam_r scale_o sum_j x[r, j] q[o, j]; with kGroups the scales are of groups of columns.
template <int bits, bool kGroups, class T>
__global__ void __launch_bounds__(kThreads)
    multiply(const T* x, T* out, const __grid_constant__ Codes q, const __grid_constant__ Rows rows) {
  float* const staged = static_cast<float*>(shared_memory());
  float* const levels = staged + kRows * kColumns;
  for (int i = int(threadIdx.x); i < 1 << (bits - 1); i += kThreads) levels[i] = q.levels[i];
  const int64_t first_row = (int64_t(blockIdx.x) * (kThreads / 32) + warp()) * kOutputs;
  const int64_t row_bytes = (q.n * bits + 7) / 8, groups = q.n / q.group;
  float sum[kRows][kOutputs] = {};
  for (int64_t first = 0; first < q.n; first += kColumns) {
    __syncthreads();
    stage(x, rows, q.n, first, staged);
    __syncthreads();
    const int columns = int(min(int64_t(kColumns), q.n - first));
    for (int j = lane(); j < columns; j += 32) {
      const int64_t column = first + j;
      float value[kOutputs];
#pragma unroll
      for (int o = 0; o < kOutputs; ++o) {
        const int64_t row = min(first_row + o, q.rows - 1);
        const uint32_t byte = q.codes[row * row_bytes + column * bits / 8];
        value[o] = value_of<bits>(byte >> (column * bits % 8) & ((1u << bits) - 1), levels);
        if (kGroups) value[o] *= q.scales[row * groups + column / q.group];
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const float v = staged[r * kColumns + j];
#pragma unroll
        for (int o = 0; o < kOutputs; ++o) sum[r][o] = __fmaf_rn(v, value[o], sum[r][o]);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
#pragma unroll
    for (int o = 0; o < kOutputs; ++o) {
      float all = sum[r][o];
#pragma unroll
      for (int mask = 16; mask > 0; mask /= 2) all += __shfl_xor_sync(~0u, all, mask);
      const int64_t row = first_row + o;
      if (lane() != 0 || r >= rows.count || row >= q.rows) continue;
      const float scale = kGroups ? 1.0f : q.scales[row];
      T* const to = out + r * q.rows + row;
      put(to, get(to) + all * (scale * rows.row[r].lam));
    }
  }
}

template <int bits, class T>
void launch_rows(const T* x, T* out, const Codes& q, const Rows& rows, Stream stream) {
  constexpr int64_t kPerBlock = kThreads / 32 * kOutputs;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(unsigned((q.rows + kPerBlock - 1) / kPerBlock));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = (kRows * kColumns + kMostLevels) * sizeof(float);
  config.stream = reinterpret_cast<cudaStream_t>(stream);
  const auto kernel = q.group == q.n ? multiply<bits, false, T> : multiply<bits, true, T>;
  check(kOp, cudaLaunchKernelEx(&config, kernel, x, out, q, rows));
}

template <class F>
void with_bits(int bits, const F& f) {
  if (bits == 1) f(std::integral_constant<int, 1>{});
  if (bits == 2) f(std::integral_constant<int, 2>{});
  if (bits == 4) f(std::integral_constant<int, 4>{});
  if (bits == 8) f(std::integral_constant<int, 8>{});
}

}  // namespace

void superposed_linear(const void* x, void* out, Dtype dtype, int64_t batch, const int64_t* model,
                       const std::vector<Key>& keys, const std::vector<float>& lams, const Codes& q,
                       Stream stream) {
  if (batch * q.rows * q.n == 0) return;
  with_type(dtype, [&](auto type) {
    using T = decltype(type);
    with_bits(q.bits, [&](auto bits) {
      for (int64_t first = 0; first < batch; first += kRows) {
        Rows rows{};
        rows.count = int(std::min(int64_t(kRows), batch - first));
        rows.flips = !keys.empty();
        for (int r = 0; r < rows.count; ++r) {
          const auto k = size_t(model[first + r]);
          rows.row[r] = {rows.flips ? keys.at(k) : Key{}, lams.at(k)};
        }
        launch_rows<decltype(bits)::value>(static_cast<const T*>(x) + first * q.n,
                                           static_cast<T*>(out) + first * q.rows, q, rows, stream);
      }
    });
  });
}

}  // namespace PYDELTA_NAMESPACE
