// What the bindings know of the kernels. Pointers are to contiguous tensors on the current device, sizes and
// dtypes are checked; each throws std::runtime_error, in words, where CUDA refuses.
#pragma once
#include <string>
#include <vector>

#include "../core/philox.h"
#include "../core/transform.h"

namespace PYDELTA_NAMESPACE {

// A CUDA stream as an integer: torch hands it over as one.
using Stream = uintptr_t;

constexpr int64_t kMaxBlock = 32768;  // in fp32 it takes half of a multiprocessor's registers

// One of the models that superpose sums.
struct Model {
  const void* tuned;
  Key key;
  float weight;
};

// Why no kernel can run here, in words; "" if one can.
std::string missing();
// What the kernels were compiled for: "sm_80", ..., and "compute_90" for the PTX that newer devices
// translate.
std::vector<std::string> targets();

void hadamard(const void* x, void* out, Dtype dtype, int64_t numel, int64_t block, double scale,
              Stream stream);
void sign_flip(const void* x, void* out, Dtype dtype, Shape shape, Key key, Stream stream);
void rotate(const void* x, void* out, Dtype dtype, int64_t rows, int64_t n, int64_t block, bool inverse,
            Key key, Stream stream);
void superpose(const void* base, const std::vector<Model>& models, void* out, Dtype dtype, Dtype out_dtype,
               Shape shape, Transform transform, Stream stream);
void retrieve(const void* base, const void* superposed, void* out, Dtype dtype, Dtype superposed_dtype,
              Dtype out_dtype, Shape shape, Key key, float lam, Transform transform, Stream stream);

}  // namespace PYDELTA_NAMESPACE
