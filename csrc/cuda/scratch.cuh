// Device memory for one op's intermediate results.
#pragma once
#include "launch.cuh"

namespace PYDELTA_NAMESPACE {

// Lives as long as the work that a stream holds now.
class Scratch {
 public:
  Scratch(const char* op, size_t bytes, Stream stream) : stream_(reinterpret_cast<cudaStream_t>(stream)) {
    if (bytes > 0) check(op, cudaMallocAsync(&memory_, bytes, stream_));
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() {
    if (memory_ != nullptr) cudaFreeAsync(memory_, stream_);
  }
  template <class T>
  T* as() const {
    return static_cast<T*>(memory_);
  }

 private:
  void* memory_ = nullptr;
  cudaStream_t stream_;
};

}  // namespace PYDELTA_NAMESPACE
