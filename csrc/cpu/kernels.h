// What the bindings know of the kernels: one table of functions per instruction set, by kernels.inc.
#pragma once
#include "../core/arguments.h"
#include "../core/types.h"

namespace pydelta_cpu {

using namespace pydelta_arguments;

// onto + lam * sum_k weights[k] masks[k](tuned[k] - base); null stands for zeros. n: the length of the last
// dimension, start: the index of the first element in the larger tensor.
struct Merge {
  const void* base;
  const void* onto;
  const void* const* tuned;
  const Mask* masks;
  const double* weights;
  int models;
  void* out;
  int dtype, out_dtype;
  int64_t numel, n, start;
  int election;
  double lam;
  bool normalize;
};

// The cuts at two ranks of |x - base| * column_norm, in each of so many groups of `size` elements; values are
// of the compute type.
struct Threshold {
  const void* x;
  const void* base;
  const void* column_norm;
  int dtype;
  int64_t groups, size, low_rank, high_rank;
  void* low;
  int64_t* low_index;
  void* high;
  int64_t* high_index;
};

// sum_k weights[k] T_k(tuned[k] - base).
struct Superposed {
  const void* base;
  const void* const* tuned;
  const uint64_t* seeds;
  const uint64_t* streams;
  const double* weights;
  int models, dtype, transform;
};

// So many contiguous tensors in each list of a job, and how many elements each has. A list that is absent is
// null.
struct Lists {
  const int64_t* numels;
  int tensors;
};

// sums[t] = the sum of xs[t]^2, or of ((|weights[t]| + eta) xs[t])^2.
struct SquareSums {
  Lists lists;
  const void* const* xs;
  const void* const* weights;
  int dtype, weight_dtype;
  double eta;
  double* sums;
};

// params = (masters or params) + e; backups take what was in params.
struct Perturb {
  Lists lists;
  const void* const* params;
  const void* const* grads;
  const void* const* masters;
  const void* const* backups;
  int dtype;
  const double* scale;
  bool adaptive;
  double eta;
};

struct Restore {
  Lists lists;
  const void* const* params;
  const void* const* sources;
  int dtype, source_dtype;
};

// A step of AdamR; sums: of the squares of each gradient, or null.
struct AdamR {
  Lists lists;
  const void* const* params;
  const void* const* grads;
  const void* const* exp_avgs;
  const void* const* exp_avg_sqs;
  const void* const* bases;
  const void* const* masters;
  int dtype, base_dtype;
  const double* pull;
  int64_t step;
  double lr, one, two, eps;
  bool l1;
  double* sums;
};

// Rows of activations, each with its own model; `seeds` and `streams` of the models' signs, or null for none.
struct Activations {
  const void* x;
  int64_t rows;
  const int64_t* model;
  const uint64_t* seeds;
  const uint64_t* streams;
  const float* lams;
};

// out (rows, width) = x (rows, depth) times a matrix (width, depth), or (depth, width) if `across`; `add`: to
// what is there. step, out_step: elements from one row of the matrix, or of out, to the next.
struct FewRows {
  const void* x;
  const void* w;
  void* out;
  int dtype;
  int64_t rows, depth, width, step, out_step;
  bool across, add;
};

struct Kernels {
#define PYDELTA_KERNEL(name, ...) void (*name)(__VA_ARGS__);
#include "kernels.inc"
#undef PYDELTA_KERNEL
};

}  // namespace pydelta_cpu

namespace PYDELTA_NAMESPACE {

using namespace pydelta_cpu;

#define PYDELTA_KERNEL(name, ...) void name(__VA_ARGS__);
#include "kernels.inc"
#undef PYDELTA_KERNEL

}  // namespace PYDELTA_NAMESPACE
