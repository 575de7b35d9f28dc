// Work in fixed pieces over threads, and scratch memory that a thread keeps.
#pragma once
#include <omp.h>

#include <cstdlib>
#include <new>

#include "../../core/types.h"

namespace PYDELTA_NAMESPACE {

// Below this many bytes a second thread costs more than it brings.
constexpr int64_t kGrainBytes = int64_t(1) << 19;

// A result of this size would throw everything else out of the cache, so it is written around it.
constexpr int64_t kAroundBytes = int64_t(1) << 23;

// Elements that are worked on together, of a tensor in a list or of a large group; pydelta/core/lists.py
// holds the same number, for sums of squares run in its order.
constexpr int64_t kChunk = int64_t(1) << 16;

// body(i) for i = 0 .. count - 1, each about `bytes` of memory traffic. Pieces do not depend on the
// number of threads, and neither do results.
template <class Body>
void parallel_for(int64_t count, int64_t bytes, int threads, const Body& body) {
  if (threads <= 1 || count <= 1 || count * bytes <= kGrainBytes || omp_in_parallel()) {
    for (int64_t i = 0; i < count; ++i) body(i);
    return;
  }
  const int64_t run = bytes >= kGrainBytes / 4 ? 1 : kGrainBytes / 4 / (bytes > 0 ? bytes : 1);
#pragma omp parallel for num_threads(threads) schedule(dynamic, run)
  for (int64_t i = 0; i < count; ++i) body(i);
}

class Scratch {
 public:
  ~Scratch() { std::free(data_); }
  void* get(size_t wanted) {
    const size_t bytes = (wanted + 4095) & ~size_t(4095);
    if (bytes > bytes_) {
      std::free(data_);
      bytes_ = 0;
      data_ = std::aligned_alloc(4096, bytes);
      if (data_ == nullptr) throw std::bad_alloc();
      bytes_ = bytes;
    }
    return data_;
  }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// Memory for so many elements, aligned for vectors, kept from call to call by each thread; its contents
// are not.
template <class C>
C* scratch(int64_t elements) {
  static thread_local Scratch memory;
  return static_cast<C*>(memory.get(size_t(elements) * sizeof(C)));
}

}  // namespace PYDELTA_NAMESPACE
