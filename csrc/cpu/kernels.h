// What the bindings know of the kernels: one table of functions per instruction set.
#pragma once
#include <cstdint>

namespace pydelta_cpu {

// A tensor seen from its input axis: `outer` slices of n rows of `inner` contiguous elements.
struct Axis {
  int64_t outer, n, inner;
};

// Pointers are to contiguous tensors, dtypes and transforms are the codes of csrc/core, keys are
// (seed, stream). Results do not depend on `threads`.
struct Kernels {
  void (*hadamard)(const void* x, void* out, int dtype, int64_t numel, int64_t block, double scale,
                   int threads);
  void (*sign_flip)(const void* x, void* out, int dtype, Axis axis, uint64_t seed, uint64_t stream,
                    int threads);
  void (*rotate)(const void* x, void* out, int dtype, int64_t rows, int64_t n, int64_t block, bool inverse,
                 uint64_t seed, uint64_t stream, int threads);
  void (*superpose)(const void* base, const void* const* tuned, int models, void* out, int dtype,
                    int out_dtype, Axis axis, const uint64_t* seeds, const uint64_t* streams,
                    const double* weights, int transform, int threads);
  void (*retrieve)(const void* base, const void* superposed, void* out, int dtype, int superposed_dtype,
                   int out_dtype, Axis axis, uint64_t seed, uint64_t stream, double lam, int transform,
                   int threads);
};

}  // namespace pydelta_cpu
