// The CUDA extension: turns Python's integers into pointers, keys and streams.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "cuda/ops.h"

namespace py = pybind11;
using namespace pybind11::literals;
using namespace PYDELTA_NAMESPACE;

namespace {

constexpr size_t kTables = std::extent<decltype(Mask::tables)>::value;

void* pointer(uintptr_t address) { return reinterpret_cast<void*>(address); }

Dtype dtype_of(const std::string& op, int code) {
  if (code >= int(Dtype::f32) && code <= int(Dtype::f16)) return Dtype(code);
  throw std::invalid_argument("[" + op + "] dtype must be float32, bfloat16 or float16 on cuda, got code " +
                              std::to_string(code));
}

Mask mask_of(int kind, uint64_t seed, uint64_t key_stream, uint64_t below, double factor,
             const uintptr_t* tables) {
  Mask mask{kind, {seed, key_stream}, below, factor, {}};
  for (size_t i = 0; i < kTables; ++i) mask.tables[i] = pointer(tables[i]);
  return mask;
}

std::vector<Model> models_of(const std::vector<uintptr_t>& tuned, const std::vector<uint64_t>& seeds,
                             const std::vector<uint64_t>& streams, const std::vector<double>& weights) {
  std::vector<Model> models;
  for (size_t k = 0; k < tuned.size(); ++k) {
    models.push_back({pointer(tuned[k]), {seeds.at(k), streams.at(k)}, float(weights.at(k))});
  }
  return models;
}

Codes codes_of(uintptr_t codes, uintptr_t scales, int64_t rows, int64_t n, int bits, int64_t group,
               uintptr_t levels, uintptr_t thresholds) {
  return {static_cast<uint8_t*>(pointer(codes)),
          static_cast<float*>(pointer(scales)),
          rows,
          n,
          group,
          bits,
          static_cast<const float*>(pointer(levels)),
          static_cast<const float*>(pointer(thresholds))};
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
      unlocked, "x"_a, "out"_a, "dtype"_a, "numel"_a, "block"_a, "scale"_a, "stream"_a);
  m.def(
      "sign_flip",
      [](uintptr_t x, uintptr_t out, int dtype, int64_t outer, int64_t n, int64_t inner, uint64_t seed,
         uint64_t key_stream, Stream stream) {
        const Axis axis{outer, n, inner};
        sign_flip(pointer(x), pointer(out), dtype_of("sign_flip", dtype), axis, {seed, key_stream}, stream);
      },
      unlocked, "x"_a, "out"_a, "dtype"_a, "outer"_a, "n"_a, "inner"_a, "seed"_a, "key_stream"_a, "stream"_a);
  m.def(
      "rotate",
      [](uintptr_t x, uintptr_t out, int dtype, int64_t rows, int64_t n, int64_t block, bool inverse,
         uint64_t seed, uint64_t key_stream, Stream stream) {
        check_block("rotate", block);
        rotate(pointer(x), pointer(out), dtype_of("rotate", dtype), rows, n, block, inverse,
               {seed, key_stream}, stream);
      },
      unlocked, "x"_a, "out"_a, "dtype"_a, "rows"_a, "n"_a, "block"_a, "inverse"_a, "seed"_a, "key_stream"_a,
      "stream"_a);
  m.def(
      "superpose",
      [](uintptr_t base, const std::vector<uintptr_t>& tuned, uintptr_t out, int dtype, int out_dtype,
         int64_t outer, int64_t n, int64_t inner, const std::vector<uint64_t>& seeds,
         const std::vector<uint64_t>& streams, const std::vector<double>& weights, int transform,
         Stream stream) {
        superpose(pointer(base), models_of(tuned, seeds, streams, weights), pointer(out),
                  dtype_of("superpose", dtype), dtype_of("superpose", out_dtype), {outer, n, inner},
                  Transform(transform), stream);
      },
      unlocked, "base"_a, "tuned"_a, "out"_a, "dtype"_a, "out_dtype"_a, "outer"_a, "n"_a, "inner"_a,
      "seeds"_a, "streams"_a, "weights"_a, "transform"_a, "stream"_a);
  m.def(
      "retrieve",
      [](uintptr_t base, uintptr_t superposed, uintptr_t out, int dtype, int superposed_dtype, int out_dtype,
         int64_t outer, int64_t n, int64_t inner, uint64_t seed, uint64_t key_stream, double lam,
         int transform, Stream stream) {
        retrieve(pointer(base), pointer(superposed), pointer(out), dtype_of("retrieve", dtype),
                 dtype_of("retrieve", superposed_dtype), dtype_of("retrieve", out_dtype), {outer, n, inner},
                 {seed, key_stream}, float(lam), Transform(transform), stream);
      },
      unlocked, "base"_a, "superposed"_a, "out"_a, "dtype"_a, "superposed_dtype"_a, "out_dtype"_a, "outer"_a,
      "n"_a, "inner"_a, "seed"_a, "key_stream"_a, "lam"_a, "transform"_a, "stream"_a);
  m.def(
      "merge_into",
      [](uintptr_t base, const std::vector<uintptr_t>& tuned, uintptr_t out, int dtype, int out_dtype,
         int64_t numel, int64_t n, int64_t start, const std::vector<int>& kinds,
         const std::vector<uint64_t>& seeds, const std::vector<uint64_t>& streams,
         const std::vector<uint64_t>& below, const std::vector<double>& factors,
         const std::vector<uintptr_t>& tables, const std::vector<double>& weights, int election, double lam,
         bool normalize, Stream stream) {
        std::vector<MaskedModel> models;
        for (size_t k = 0; k < tuned.size(); ++k) {
          tables.at(k * kTables + kTables - 1);
          const Mask mask = mask_of(kinds.at(k), seeds.at(k), streams.at(k), below.at(k), factors.at(k),
                                    &tables[k * kTables]);
          models.push_back({pointer(tuned[k]), mask, float(weights.at(k))});
        }
        merge_into(pointer(base), models, pointer(out), dtype_of("merge_into", dtype),
                   dtype_of("merge_into", out_dtype), numel, n, start,
                   {Election(election), float(lam), normalize}, stream);
      },
      unlocked, "base"_a, "tuned"_a, "out"_a, "dtype"_a, "out_dtype"_a, "numel"_a, "n"_a, "start"_a,
      "kinds"_a, "seeds"_a, "streams"_a, "below"_a, "factors"_a, "tables"_a, "weights"_a, "election"_a,
      "lam"_a, "normalize"_a, "stream"_a);
  m.def(
      "mask_rescale",
      [](uintptr_t delta, uintptr_t base, uintptr_t out, int dtype, int64_t numel, int64_t n, int kind,
         uint64_t seed, uint64_t key_stream, uint64_t below, double factor,
         const std::array<uintptr_t, kTables>& tables, Stream stream) {
        const Mask mask = mask_of(kind, seed, key_stream, below, factor, tables.data());
        mask_rescale(pointer(delta), pointer(base), pointer(out), dtype_of("mask_rescale", dtype), numel, n,
                     mask, stream);
      },
      unlocked, "delta"_a, "base"_a, "out"_a, "dtype"_a, "numel"_a, "n"_a, "kind"_a, "seed"_a, "key_stream"_a,
      "below"_a, "factor"_a, "tables"_a, "stream"_a);
  m.def(
      "magnitude_threshold",
      [](uintptr_t x, uintptr_t base, uintptr_t column_norm, int dtype, int64_t groups, int64_t size,
         int64_t low_rank, int64_t high_rank, uintptr_t low, uintptr_t low_index, uintptr_t high,
         uintptr_t high_index, Stream stream) {
        const auto cuts = [](uintptr_t magnitude, uintptr_t index) {
          return Cuts{static_cast<float*>(pointer(magnitude)), static_cast<int64_t*>(pointer(index))};
        };
        magnitude_threshold(pointer(x), pointer(base), static_cast<const float*>(pointer(column_norm)),
                            dtype_of("magnitude_threshold", dtype), {groups, size}, low_rank, high_rank,
                            cuts(low, low_index), cuts(high, high_index), stream);
      },
      unlocked, "x"_a, "base"_a, "column_norm"_a, "dtype"_a, "groups"_a, "size"_a, "low_rank"_a,
      "high_rank"_a, "low"_a, "low_index"_a, "high"_a, "high_index"_a, "stream"_a);
  m.def(
      "quantize",
      [](uintptr_t x, uintptr_t codes, uintptr_t scales, int dtype, int64_t rows, int64_t n, int bits,
         int64_t group, uintptr_t levels, uintptr_t thresholds, Stream stream) {
        const Codes q = codes_of(codes, scales, rows, n, bits, group, levels, thresholds);
        quantize(pointer(x), dtype_of("quantize", dtype), q, stream);
      },
      unlocked, "x"_a, "codes"_a, "scales"_a, "dtype"_a, "rows"_a, "n"_a, "bits"_a, "group"_a, "levels"_a,
      "thresholds"_a, "stream"_a);
  m.def(
      "dequantize",
      [](uintptr_t codes, uintptr_t scales, uintptr_t out, int out_dtype, int64_t rows, int64_t n, int bits,
         int64_t group, uintptr_t levels, Stream stream) {
        const Codes q = codes_of(codes, scales, rows, n, bits, group, levels, 0);
        dequantize(q, pointer(out), dtype_of("dequantize", out_dtype), stream);
      },
      unlocked, "codes"_a, "scales"_a, "out"_a, "out_dtype"_a, "rows"_a, "n"_a, "bits"_a, "group"_a,
      "levels"_a, "stream"_a);
  m.def(
      "superpose_codes",
      [](uintptr_t base, const std::vector<uintptr_t>& tuned, uintptr_t codes, uintptr_t scales, int dtype,
         int64_t rows, int64_t n, const std::vector<uint64_t>& seeds, const std::vector<uint64_t>& streams,
         const std::vector<double>& weights, int transform, int bits, int64_t group, uintptr_t levels,
         uintptr_t thresholds, Stream stream) {
        const Codes q = codes_of(codes, scales, rows, n, bits, group, levels, thresholds);
        superpose_codes(pointer(base), models_of(tuned, seeds, streams, weights),
                        dtype_of("superpose", dtype), q, Transform(transform), stream);
      },
      unlocked, "base"_a, "tuned"_a, "codes"_a, "scales"_a, "dtype"_a, "rows"_a, "n"_a, "seeds"_a,
      "streams"_a, "weights"_a, "transform"_a, "bits"_a, "group"_a, "levels"_a, "thresholds"_a, "stream"_a);
  m.def(
      "retrieve_codes",
      [](uintptr_t base, uintptr_t codes, uintptr_t scales, uintptr_t out, int dtype, int out_dtype,
         int64_t rows, int64_t n, uint64_t seed, uint64_t key_stream, double lam, int transform, int bits,
         int64_t group, uintptr_t levels, Stream stream) {
        const Codes q = codes_of(codes, scales, rows, n, bits, group, levels, 0);
        retrieve_codes(pointer(base), q, pointer(out), dtype_of("retrieve", dtype),
                       dtype_of("retrieve", out_dtype), {seed, key_stream}, float(lam), Transform(transform),
                       stream);
      },
      unlocked, "base"_a, "codes"_a, "scales"_a, "out"_a, "dtype"_a, "out_dtype"_a, "rows"_a, "n"_a, "seed"_a,
      "key_stream"_a, "lam"_a, "transform"_a, "bits"_a, "group"_a, "levels"_a, "stream"_a);
  m.def(
      "vera_matrix",
      [](uintptr_t out, int dtype, int64_t rows, int64_t columns, uint64_t first, uint64_t seed,
         uint64_t key_stream, Stream stream) {
        vera_matrix(pointer(out), dtype_of("vera_matrix", dtype), rows, columns, first, {seed, key_stream},
                    stream);
      },
      unlocked, "out"_a, "dtype"_a, "rows"_a, "columns"_a, "first"_a, "seed"_a, "key_stream"_a, "stream"_a);
  m.def(
      "square_sums",
      [](const std::vector<int64_t>& numels, const Addresses& xs, const Addresses& weights, uintptr_t sums,
         int dtype, int weight_dtype, double eta, Stream stream) {
        square_sums(numels, xs, weights, static_cast<double*>(pointer(sums)), dtype_of("square_sums", dtype),
                    dtype_of("square_sums", weight_dtype), float(eta), stream);
      },
      unlocked, "numels"_a, "xs"_a, "weights"_a, "sums"_a, "dtype"_a, "weight_dtype"_a, "eta"_a, "stream"_a);
  m.def(
      "sam_perturb_",
      [](const std::vector<int64_t>& numels, const Addresses& params, const Addresses& grads,
         const Addresses& masters, const Addresses& backups, uintptr_t scale, int dtype, bool adaptive,
         double eta, Stream stream) {
        sam_perturb_(numels, params, grads, masters, backups, static_cast<const double*>(pointer(scale)),
                     dtype_of("sam_perturb_", dtype), adaptive, float(eta), stream);
      },
      unlocked, "numels"_a, "params"_a, "grads"_a, "masters"_a, "backups"_a, "scale"_a, "dtype"_a,
      "adaptive"_a, "eta"_a, "stream"_a);
  m.def(
      "sam_restore_",
      [](const std::vector<int64_t>& numels, const Addresses& params, const Addresses& sources, int dtype,
         int source_dtype, Stream stream) {
        sam_restore_(numels, params, sources, dtype_of("sam_restore_", dtype),
                     dtype_of("sam_restore_", source_dtype), stream);
      },
      unlocked, "numels"_a, "params"_a, "sources"_a, "dtype"_a, "source_dtype"_a, "stream"_a);
  m.def(
      "adamr_step_",
      [](const std::vector<int64_t>& numels, const Addresses& params, const Addresses& grads,
         const Addresses& exp_avgs, const Addresses& exp_avg_sqs, const Addresses& bases,
         const Addresses& masters, uintptr_t pull, uintptr_t sums, int dtype, int base_dtype, int64_t step,
         double lr, double one, double two, double eps, bool l1, Stream stream) {
        adamr_step_(numels, {params, grads, exp_avgs, exp_avg_sqs, bases, masters},
                    static_cast<const double*>(pointer(pull)), static_cast<double*>(pointer(sums)),
                    dtype_of("adamr_step_", dtype), dtype_of("adamr_step_", base_dtype),
                    {step, lr, one, two, eps, l1}, stream);
      },
      unlocked, "numels"_a, "params"_a, "grads"_a, "exp_avgs"_a, "exp_avg_sqs"_a, "bases"_a, "masters"_a,
      "pull"_a, "sums"_a, "dtype"_a, "base_dtype"_a, "step"_a, "lr"_a, "one"_a, "two"_a, "eps"_a, "l1"_a,
      "stream"_a);
  m.def(
      "superposed_linear",
      [](uintptr_t x, uintptr_t model, uintptr_t out, int dtype, int64_t batch,
         const std::vector<uint64_t>& seeds, const std::vector<uint64_t>& streams,
         const std::vector<float>& lams, uintptr_t codes, uintptr_t scales, int64_t rows, int64_t n, int bits,
         int64_t group, uintptr_t levels, Stream stream) {
        std::vector<Key> keys;
        for (size_t k = 0; k < seeds.size(); ++k) keys.push_back({seeds[k], streams.at(k)});
        const Codes q = codes_of(codes, scales, rows, n, bits, group, levels, 0);
        superposed_linear(pointer(x), pointer(out), dtype_of("superposed_linear", dtype), batch,
                          static_cast<const int64_t*>(pointer(model)), keys, lams, q, stream);
      },
      unlocked, "x"_a, "model"_a, "out"_a, "dtype"_a, "batch"_a, "seeds"_a, "streams"_a, "lams"_a, "codes"_a,
      "scales"_a, "rows"_a, "n"_a, "bits"_a, "group"_a, "levels"_a, "stream"_a);
}
