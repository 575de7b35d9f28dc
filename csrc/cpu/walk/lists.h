// Lists of tensors, cut into chunks; and sums of squares over them whose order depends on nothing but shapes.
#pragma once
#include <vector>

#include "../kernels.h"
#include "../simd/wide.h"
#include "parallel.h"
#include "walk.h"

namespace PYDELTA_NAMESPACE {

// pydelta/core/lists.py holds the same number.
constexpr int kSumLanes = 1024;

struct Chunk {
  int tensor;
  int64_t start, count;
};

inline std::vector<Chunk> chunks_of(const Lists& lists) {
  std::vector<Chunk> chunks;
  for (int t = 0; t < lists.tensors; ++t) {
    for (int64_t start = 0; start < lists.numels[t]; start += kChunk) {
      chunks.push_back({t, start, least(kChunk, lists.numels[t] - start)});
    }
  }
  return chunks;
}

inline int64_t elements_of(const Lists& lists) {
  int64_t all = 0;
  for (int t = 0; t < lists.tensors; ++t) all += lists.numels[t];
  return all;
}

// body(i, chunk) for every chunk; bytes: memory traffic per element.
template <class Body>
void for_chunks(const std::vector<Chunk>& chunks, int64_t elements, int64_t bytes, int threads,
                const Body& body) {
  const int64_t count = int64_t(chunks.size());
  if (count == 0) return;
  parallel_for(count, elements * bytes / count, threads, [&](int64_t i) { body(i, chunks[size_t(i)]); });
}

// Entry l takes entry l + h, for h = ..., 4, 2, 1.
inline double halve(double* x, int64_t count) {
  if (count == 0) return 0;
  int64_t half = 1;
  while (2 * half < count) half *= 2;
  for (; half > 0; half /= 2) {
    const int64_t pairs = least(half, count - half);
    // What is written lies below all that is read.
#pragma GCC ivdep
    for (int64_t i = 0; i < pairs; ++i) x[i] += x[i + half];
    count = least(half, count);
  }
  return x[0];
}

// Adds squares up in lanes: element j goes to lane j mod kSumLanes. The square of an fp32 number is exact in
// fp64.
template <class C>
class SquareLanes {
 public:
  explicit SquareLanes(int64_t count) : used_(least(count, kSumLanes)) {}
  // The pair of elements from the i-th on, in order from the first; zeros follow the last element.
  PYDELTA_INLINE void add(int64_t i, Pair<C> v) {
    if (i < kSumLanes) {
      add<true>(i, v);
    } else {
      add<false>(i, v);
    }
  }
  double sum() { return halve(lane_, used_); }

 private:
  // first: of a lane, which takes it as it is.
  template <bool first>
  PYDELTA_INLINE void add(int64_t i, Pair<C> v) {
    double* const at = lane_ + i % kSumLanes;
    if constexpr (sizeof(C) == 4) {
      const Wide wide(v);
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) {
        double* const lane = at + k * kLanes<double>;
        put(lane,
            first ? wide.v[k] * wide.v[k] : add_exact_product<double>(load(lane), wide.v[k], wide.v[k]));
      }
    } else {
      put(at, first ? v.a * v.a : load(at) + v.a * v.a);
      put(at + kLanes<double>, first ? v.b * v.b : load(at + kLanes<double>) + v.b * v.b);
    }
  }
  PYDELTA_INLINE static void put(double* lane, Vec<double> sum) { memcpy(lane, &sum, sizeof(sum)); }
  alignas(kVectorBytes) double lane_[kSumLanes + 2 * kLanes<float>];
  int64_t used_;
};

// The sum of numbers in the order of a tensor's elements: in lanes, then halved.
inline double sum_in_lanes(double* x, int64_t count) {
  for (int64_t i = kSumLanes; i < count; ++i) x[i % kSumLanes] += x[i];
  return halve(x, count < kSumLanes ? count : kSumLanes);
}

// What the chunks of each tensor gave, summed.
inline void sum_chunks(const std::vector<Chunk>& chunks, std::vector<double>& partial, int tensors,
                       double* sums) {
  for (int t = 0; t < tensors; ++t) sums[t] = 0;
  for (size_t first = 0; first < chunks.size();) {
    size_t last = first;
    while (last < chunks.size() && chunks[last].tensor == chunks[first].tensor) ++last;
    sums[chunks[first].tensor] = sum_in_lanes(&partial[first], int64_t(last - first));
    first = last;
  }
}

template <class C>
PYDELTA_INLINE inline Vec<C> magnitude_of(Vec<C> v) {
  return bit_cast<Vec<C>>(bit_cast<VecBits<C>>(v) & ~kSignBit<C>);
}

// Tensor t of a list, from one of a chunk's elements on.
template <class T>
PYDELTA_INLINE inline T* at(const void* const* list, const Chunk& chunk) {
  return static_cast<T*>(const_cast<void*>(list[chunk.tensor])) + chunk.start;
}

}  // namespace PYDELTA_NAMESPACE
