#include "map.cuh"

namespace PYDELTA_NAMESPACE {

void map_blocks(const Task& task, const void* x, void* out, Dtype dtype, Key key, Stream stream) {
  with_type(dtype, [&](auto type) {
    using T = decltype(type);
    run_blocks(task, Map<T>{static_cast<const T*>(x), out, key}, stream);
  });
}

void hadamard(const void* x, void* out, Dtype dtype, int64_t numel, int64_t block, double scale,
              Stream stream) {
  Task task{"hadamard", {1, numel, 1}, Transform::hadamard, block, scale};
  task.flips = false;
  map_blocks(task, x, out, dtype, {}, stream);
}

}  // namespace PYDELTA_NAMESPACE
