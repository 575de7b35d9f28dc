// What the bindings know of the kernels: one table of functions per instruction set.
#pragma once
#include <cstdint>

namespace pydelta_cpu {

// A tensor seen from its input axis: `outer` slices of n rows of `inner` contiguous elements.
struct Axis {
  int64_t outer, n, inner;
};

// A mask: its kind is a code of csrc/core/mask.h, which also says what the tables are; null where absent.
struct Mask {
  int kind;
  uint64_t seed, stream;
  uint64_t below;
  double factor;
  const void* tables[5];
};

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

// A tensor of rows x n in so many bits an element; `group` elements share a scale. Each row's codes fill
// whole bytes. levels: the positive ones; thresholds: between them.
struct Codes {
  uint8_t* codes;
  float* scales;
  int64_t rows, n, group;
  int bits;
  const float* levels;
  const float* thresholds;
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

// Pointers are to contiguous tensors, dtypes and transforms are the codes of csrc/core, keys are
// (seed, stream). Results do not depend on `threads`.
struct Kernels {
  void (*hadamard)(const void* x, void* out, int dtype, int64_t numel, int64_t block, double scale,
                   int threads);
  void (*sign_flip)(const void* x, void* out, int dtype, Axis axis, uint64_t seed, uint64_t stream,
                    int threads);
  void (*rotate)(const void* x, void* out, int dtype, int64_t rows, int64_t n, int64_t block, bool inverse,
                 uint64_t seed, uint64_t stream, int threads);
  void (*superpose)(const Superposed& models, void* out, int out_dtype, Axis axis, int threads);
  void (*retrieve)(const void* base, const void* superposed, void* out, int dtype, int superposed_dtype,
                   int out_dtype, Axis axis, uint64_t seed, uint64_t stream, double lam, int transform,
                   int threads);
  void (*merge_into)(const Merge& merge, int threads);
  void (*mask_rescale)(const void* delta, const void* base, void* out, int dtype, int64_t numel, int64_t n,
                       const Mask& mask, int threads);
  void (*magnitude_threshold)(const Threshold& threshold, int threads);
  void (*quantize)(const void* x, int dtype, const Codes& codes, int threads);
  void (*dequantize)(const Codes& codes, void* out, int out_dtype, int threads);
  void (*superpose_codes)(const Superposed& models, const Codes& codes, int threads);
  void (*retrieve_codes)(const void* base, const Codes& codes, void* out, int dtype, int out_dtype,
                         uint64_t seed, uint64_t stream, double lam, int transform, int threads);
  // Uniform in [-1, 1): element (i, j) from draw first + 2^32 i + j.
  void (*vera_matrix)(void* out, int dtype, int64_t rows, int64_t columns, uint64_t first, uint64_t seed,
                      uint64_t stream, int threads);
  void (*square_sums)(const SquareSums& job, int threads);
  void (*sam_perturb_)(const Perturb& job, int threads);
  void (*sam_restore_)(const Restore& job, int threads);
  void (*adamr_step_)(const AdamR& job, int threads);
  // For few rows; not for fp64.
  void (*few_rows)(const FewRows& product, int threads);
  // out += lam (codes) (signed x), a row of x to a row of out; not for fp64.
  void (*superposed_linear)(const Activations& x, const Codes& codes, void* out, int dtype, int threads);
};

}  // namespace pydelta_cpu
