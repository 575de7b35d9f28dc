// The CUDA extension: turns Python's integers into pointers, keys and streams.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/ops.h"

namespace py = pybind11;
using namespace PYDELTA_NAMESPACE;

namespace {

void* pointer(uintptr_t address) { return reinterpret_cast<void*>(address); }

Dtype dtype_of(const std::string& op, int code) {
  if (code >= int(Dtype::f32) && code <= int(Dtype::f16)) return Dtype(code);
  throw std::invalid_argument("[" + op + "] dtype must be float32, bfloat16 or float16 on cuda, got code " +
                              std::to_string(code));
}

void check_block(const std::string& op, int64_t block) {
  if (block <= kMaxBlock) return;
  throw std::invalid_argument("[" + op + "] block must be at most " + std::to_string(kMaxBlock) +
                              " on cuda, got " + std::to_string(block));
}

}  // namespace

PYBIND11_MODULE(_cuda, m) {
  m.doc() = "pydelta's CUDA kernels. Arguments are checked by pydelta.ops, not here.";
  const py::call_guard<py::gil_scoped_release> unlocked;

  m.def("missing", missing, unlocked);
  m.def("targets", targets);

  m.def(
      "hadamard",
      [](uintptr_t x, uintptr_t out, int dtype, int64_t numel, int64_t block, double scale, Stream stream) {
        check_block("hadamard", block);
        hadamard(pointer(x), pointer(out), dtype_of("hadamard", dtype), numel, block, scale, stream);
      },
      unlocked);
  m.def(
      "sign_flip",
      [](uintptr_t x, uintptr_t out, int dtype, int64_t outer, int64_t n, int64_t inner, uint64_t seed,
         uint64_t key_stream, Stream stream) {
        const Shape shape{outer, n, inner};
        sign_flip(pointer(x), pointer(out), dtype_of("sign_flip", dtype), shape, {seed, key_stream}, stream);
      },
      unlocked);
  m.def(
      "rotate",
      [](uintptr_t x, uintptr_t out, int dtype, int64_t rows, int64_t n, int64_t block, bool inverse,
         uint64_t seed, uint64_t key_stream, Stream stream) {
        check_block("rotate", block);
        rotate(pointer(x), pointer(out), dtype_of("rotate", dtype), rows, n, block, inverse,
               {seed, key_stream}, stream);
      },
      unlocked);
  m.def(
      "superpose",
      [](uintptr_t base, const std::vector<uintptr_t>& tuned, uintptr_t out, int dtype, int out_dtype,
         int64_t outer, int64_t n, int64_t inner, const std::vector<uint64_t>& seeds,
         const std::vector<uint64_t>& streams, const std::vector<double>& weights, int transform,
         Stream stream) {
        std::vector<Model> models;
        for (size_t k = 0; k < tuned.size(); ++k) {
          models.push_back({pointer(tuned[k]), {seeds.at(k), streams.at(k)}, float(weights.at(k))});
        }
        superpose(pointer(base), models, pointer(out), dtype_of("superpose", dtype),
                  dtype_of("superpose", out_dtype), {outer, n, inner}, Transform(transform), stream);
      },
      unlocked);
  m.def(
      "retrieve",
      [](uintptr_t base, uintptr_t superposed, uintptr_t out, int dtype, int superposed_dtype, int out_dtype,
         int64_t outer, int64_t n, int64_t inner, uint64_t seed, uint64_t key_stream, double lam,
         int transform, Stream stream) {
        retrieve(pointer(base), pointer(superposed), pointer(out), dtype_of("retrieve", dtype),
                 dtype_of("retrieve", superposed_dtype), dtype_of("retrieve", out_dtype), {outer, n, inner},
                 {seed, key_stream}, float(lam), Transform(transform), stream);
      },
      unlocked);
}
