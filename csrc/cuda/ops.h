// What the bindings know of the kernels. Pointers are to contiguous tensors on the current device, sizes and
// dtypes are checked; each throws std::runtime_error, in words, where CUDA refuses.
#pragma once
#include <string>
#include <vector>

#include "../core/arguments.h"
#include "../core/mask.h"
#include "../core/philox.h"
#include "../core/transform.h"

namespace PYDELTA_NAMESPACE {

using namespace pydelta_arguments;

// A CUDA stream as an integer: torch hands it over as one.
using Stream = uintptr_t;

constexpr int64_t kMaxBlock = 32768;  // in fp32 it takes half of a multiprocessor's registers

// One of the models that superpose sums.
struct Model {
  const void* tuned;
  Key key;
  float weight;
};

// One of the models that merge_into sums.
struct MaskedModel {
  const void* tuned;
  Mask mask;
  float weight;
};

// What merge_into does with the sum of its models.
struct Merging {
  Election elect;
  float lam;
  bool normalize;
  bool onto_base = true;
};

// Groups of `size` consecutive elements, and a cut of the order of magnitudes in each.
struct Groups {
  int64_t groups, size;
};
struct Cuts {
  float* magnitude;
  int64_t* index;
};

// The tensors of a list, as integers; none if the list is absent.
using Addresses = std::vector<uintptr_t>;
struct StepLists {
  Addresses params, grads, exp_avgs, exp_avg_sqs, bases, masters;
};
struct StepNumbers {
  int64_t step;
  double lr, one, two, eps;
  bool l1;
};

// Why no kernel can run here, in words; "" if one can.
std::string missing();
// What the kernels were compiled for: "sm_80", ..., and "compute_90" for the PTX that newer devices
// translate.
std::vector<std::string> targets();

void hadamard(const void* x, void* out, Dtype dtype, int64_t numel, int64_t block, double scale,
              Stream stream);
void sign_flip(const void* x, void* out, Dtype dtype, Axis axis, Key key, Stream stream);
void rotate(const void* x, void* out, Dtype dtype, int64_t rows, int64_t n, int64_t block, bool inverse,
            Key key, Stream stream);
void superpose(const void* base, const std::vector<Model>& models, void* out, Dtype dtype, Dtype out_dtype,
               Axis axis, Transform transform, Stream stream);
void retrieve(const void* base, const void* superposed, void* out, Dtype dtype, Dtype superposed_dtype,
              Dtype out_dtype, Axis axis, Key key, float lam, Transform transform, Stream stream);
// `n` is the length of a row; the first element has the index `start` in the tensor that random masks and
// cuts of the whole tensor are of.
void merge_into(const void* base, const std::vector<MaskedModel>& models, void* out, Dtype dtype,
                Dtype out_dtype, int64_t numel, int64_t n, int64_t start, Merging merging, Stream stream);
void mask_rescale(const void* delta, const void* base, void* out, Dtype dtype, int64_t numel, int64_t n,
                  const Mask& mask, Stream stream);
// out += lam_k q (x with the signs of keys[k]), k = model[row], which lies on the host; no keys: no signs.
void superposed_linear(const void* x, void* out, Dtype dtype, int64_t batch, const int64_t* model,
                       const std::vector<Key>& keys, const std::vector<float>& lams, const Codes& q,
                       Stream stream);
// Cuts behind the `low_rank` and the `high_rank` largest; `base` and `column_norm` may be null.
void magnitude_threshold(const void* x, const void* base, const float* column_norm, Dtype dtype,
                         Groups groups, int64_t low_rank, int64_t high_rank, Cuts low, Cuts high,
                         Stream stream);
void quantize(const void* x, Dtype dtype, const Codes& q, Stream stream);
void dequantize(const Codes& q, void* out, Dtype out_dtype, Stream stream);
// The last two have the transform's axis last.
void superpose_codes(const void* base, std::vector<Model> models, Dtype dtype, const Codes& q,
                     Transform transform, Stream stream);
void retrieve_codes(const void* base, const Codes& q, void* out, Dtype dtype, Dtype out_dtype, Key key,
                    float lam, Transform transform, Stream stream);
// Uniform in [-1, 1): element (i, j) from draw first + 2^32 i + j.
void vera_matrix(void* out, Dtype dtype, int64_t rows, int64_t columns, uint64_t first, Key key,
                 Stream stream);
// Lists of tensors that agree in their dtypes; `numels` has the sizes. Numbers that a device has made come by
// address.
void square_sums(const std::vector<int64_t>& numels, const Addresses& xs, const Addresses& weights,
                 double* sums, Dtype dtype, Dtype weight_dtype, float eta, Stream stream);
void sam_perturb_(const std::vector<int64_t>& numels, const Addresses& params, const Addresses& grads,
                  const Addresses& masters, const Addresses& backups, const double* scale, Dtype dtype,
                  bool adaptive, float eta, Stream stream);
void sam_restore_(const std::vector<int64_t>& numels, const Addresses& params, const Addresses& sources,
                  Dtype dtype, Dtype source_dtype, Stream stream);
void adamr_step_(const std::vector<int64_t>& numels, const StepLists& lists, const double* pull, double* sums,
                 Dtype dtype, Dtype base_dtype, const StepNumbers& given, Stream stream);

}  // namespace PYDELTA_NAMESPACE
