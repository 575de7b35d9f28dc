// Lists of tensors in one launch: a table of addresses comes as a parameter, and a thread block takes a
// chunk.
#pragma once
#include "scratch.cuh"
#include "tile.cuh"

namespace PYDELTA_NAMESPACE {

// pydelta/core/lists.py holds the first two numbers. A table of 64 tensors fits in the 4 KiB of a launch.
constexpr int64_t kChunk = 65536;
constexpr int kSumLanes = 1024;
constexpr int kTensors = 64, kListThreads = 256, kLaneVector = kSumLanes / kListThreads;

// Some tensors of so many lists; tensor t has the chunks first[t] .. first[t + 1] - 1 of the launch.
template <int lists>
struct Table {
  void* address[lists][kTensors];
  int64_t numel[kTensors];
  int first[kTensors + 1];
  int tensors;
  bool vector;
};

// A chunk of one of them.
struct Chunk {
  int tensor;
  int64_t start;
  int count;
};

template <int lists>
__device__ __forceinline__ Chunk chunk_of(const Table<lists>& table) {
  const int block = int(blockIdx.x);
  int low = 0, high = table.tensors - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (table.first[middle] <= block) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  const int64_t start = (block - table.first[low]) * kChunk;
  return {low, start, int(min(kChunk, table.numel[low] - start))};
}

// Four neighbours as floats; those beyond the end are zeros.
template <class T>
__device__ __forceinline__ void load_four(float (&to)[4], const T* p, int left, bool vector) {
  Words<T, 4> words = {};
  if (vector && left >= 4) {
    load_vector(words, p);
  } else {
    T raw[4] = {};
    for (int i = 0; i < 4 && i < left; ++i) raw[i] = p[i];
    memcpy(words.w, raw, sizeof(raw));
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) to[i] = element(words, i);
}

template <class T>
__device__ __forceinline__ void store_four(T* p, const float (&from)[4], int left, bool vector) {
  const Words<T, 4> words = rounded<T, 4>(from);
  if (vector && left >= 4) {
    store_vector(p, words);
  } else {
    T raw[4];
    memcpy(raw, words.w, sizeof(raw));
    for (int i = 0; i < 4 && i < left; ++i) p[i] = raw[i];
  }
}

// The sum of 1024 lanes, four a thread: lane l takes lane l + 512, l + 256, and so on. For all threads of a
// block at once; the first one has it.
__device__ __forceinline__ double halve(double (&lane)[kLaneVector]) {
  extern __shared__ float4 shared[];
  double* const own = reinterpret_cast<double*>(shared) + threadIdx.x * kLaneVector;
#pragma unroll
  for (int i = 0; i < kLaneVector; ++i) own[i] = lane[i];
  for (int half = kListThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (int(threadIdx.x) < half) {
#pragma unroll
      for (int i = 0; i < kLaneVector; ++i) own[i] += own[half * kLaneVector + i];
    }
  }
  return (own[0] + own[2]) + (own[1] + own[3]);
}
constexpr size_t kHalveBytes = kSumLanes * sizeof(double);

// Adds squares to a thread's lanes: products of floats are exact in fp64.
__device__ __forceinline__ void add_squares(double (&lane)[kLaneVector], const float (&x)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) lane[i] += double(x[i]) * double(x[i]);
}

// Calls launch(table, chunks, first chunk of all) for some tensors after the other.
template <int lists, class Launch>
void for_tables(const std::vector<int64_t>& numels, const Addresses* const (&addresses)[lists],
                const Launch& launch) {
  int64_t before = 0;
  for (size_t start = 0; start < numels.size(); start += kTensors) {
    Table<lists> table{};
    table.tensors = int(numels.size() - start < kTensors ? numels.size() - start : kTensors);
    table.vector = true;
    for (int t = 0; t < table.tensors; ++t) {
      table.numel[t] = numels[start + t];
      table.first[t + 1] = table.first[t] + int((numels[start + t] + kChunk - 1) / kChunk);
      for (int k = 0; k < lists; ++k) {
        if (addresses[k]->empty()) continue;
        table.address[k][t] = reinterpret_cast<void*>(addresses[k]->at(start + t));
        table.vector = table.vector && addresses[k]->at(start + t) % 16 == 0;
      }
    }
    const int chunks = table.first[table.tensors];
    if (chunks > 0) launch(table, chunks, before);
    before += chunks;
  }
}

inline cudaLaunchConfig_t config_of(int blocks, size_t shared, Stream stream) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(unsigned(blocks));
  config.blockDim = dim3(kListThreads);
  config.dynamicSmemBytes = shared;
  config.stream = reinterpret_cast<cudaStream_t>(stream);
  return config;
}

inline int64_t chunks_in(const std::vector<int64_t>& numels) {
  int64_t chunks = 0;
  for (const int64_t numel : numels) chunks += (numel + kChunk - 1) / kChunk;
  return chunks;
}

// sums[t] from what the chunks of each tensor gave. Defined in square_sums.cu.
void sum_chunks(const char* op, const std::vector<int64_t>& numels, const double* partial, double* sums,
                Stream stream);

}  // namespace PYDELTA_NAMESPACE
