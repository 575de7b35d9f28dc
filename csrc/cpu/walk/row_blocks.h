// Superpositions that never lie in memory whole: blocks of rows, in scratch memory that L2 holds.
#pragma once
#include <functional>

#include "../kernels.h"
#include "walk.h"

namespace PYDELTA_NAMESPACE {

// Elements of a block of rows, unless one row is longer.
constexpr int64_t kRowBlock = 8192;

// A block: its first row, how many there are, and their superposition in fp32 (fp64 for fp64).
using RowBlock = std::function<void(int64_t first, int64_t count, void* superposed)>;

// body(first, count, superposed) for blocks that cover so many rows of n; bytes: memory traffic per element.
template <class C, class Body>
void for_row_blocks(int64_t rows, int64_t n, int64_t bytes, int threads, const Body& body) {
  if (rows * n == 0) return;
  const int64_t together = n < kRowBlock ? kRowBlock / n : 1;
  parallel_for(ceil_div(rows, together), together * n * bytes, threads, [&](int64_t i) {
    static thread_local Scratch memory;
    const int64_t first = i * together, count = least(together, rows - first);
    body(first, count, static_cast<C*>(memory.get(size_t(count * n) * sizeof(C))));
  });
}

// Superposes block by block, each handed to `use`.
void superpose_blocks(const Superposed& models, int64_t rows, int64_t n, int threads, const RowBlock& use);

// Retrieves from a Hadamard superposition block by block, each asked for from `fill`.
void retrieve_blocks(const void* base, void* out, int dtype, int out_dtype, int64_t rows, int64_t n, Key key,
                     double lam, int threads, const RowBlock& fill);

}  // namespace PYDELTA_NAMESPACE
