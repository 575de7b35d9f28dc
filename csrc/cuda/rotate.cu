#include "map.cuh"

namespace PYDELTA_NAMESPACE {

void rotate(const void* x, void* out, Dtype dtype, int64_t rows, int64_t n, int64_t block, bool inverse,
            Key key, Stream stream) {
  Task task{"rotate", {rows, n, 1}, Transform::hadamard, block, orthonormal(block)};
  task.inverse = inverse;
  map_blocks(task, x, out, dtype, key, stream);
}

}  // namespace PYDELTA_NAMESPACE
