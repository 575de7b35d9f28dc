// The CPU extension: chooses the instruction set once, and turns Python's integers into pointers.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/kernels.h"

namespace py = pybind11;
using namespace pybind11::literals;
using namespace pydelta_cpu;

namespace pydelta_baseline {
const Kernels& kernels();
}
namespace pydelta_avx2 {
const Kernels& kernels();
}
namespace pydelta_avx512 {
const Kernels& kernels();
}

namespace {

struct Isa {
  const char* name;
  bool usable;
  const Kernels& (*kernels)();
};

// Best first.
const std::vector<Isa>& isas() {
  static const std::vector<Isa> all{
#ifdef PYDELTA_HAS_AVX512
      {"avx512",
       __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"),
       pydelta_avx512::kernels},
#endif
#ifdef PYDELTA_HAS_AVX2
      {"avx2",
       __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"),
       pydelta_avx2::kernels},
#endif
      {"baseline", true, pydelta_baseline::kernels},
  };
  return all;
}

const Isa* best() {
  for (const Isa& isa : isas()) {
    if (isa.usable) return &isa;
  }
  return &isas().back();
}

const Isa* chosen = best();

std::vector<std::string> usable_isas() {
  std::vector<std::string> names;
  for (const Isa& isa : isas()) {
    if (isa.usable) names.push_back(isa.name);
  }
  return names;
}

void set_isa(const std::string& name) {
  for (const Isa& isa : isas()) {
    if (isa.usable && name == isa.name) {
      chosen = &isa;
      return;
    }
  }
  throw std::invalid_argument("[set_isa] name must be one of isas(), got '" + name + "'");
}

template <class T = void>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

constexpr size_t kTables = sizeof(Mask::tables) / sizeof(*Mask::tables);

Mask mask_of(int kind, uint64_t seed, uint64_t stream, uint64_t below, double factor,
             const uintptr_t* tables) {
  Mask mask{kind, {seed, stream}, below, factor, {}};
  for (size_t i = 0; i < kTables; ++i) mask.tables[i] = pointer(tables[i]);
  return mask;
}

Codes codes_of(uintptr_t codes, uintptr_t scales, int64_t rows, int64_t n, int bits, int64_t group,
               uintptr_t levels, uintptr_t thresholds) {
  return {pointer<uint8_t>(codes), pointer<float>(scales),    rows, n, group, bits,
          pointer<float>(levels),  pointer<float>(thresholds)};
}

// The tensors of a list; null if the list is absent.
using Addresses = std::vector<uintptr_t>;
static_assert(sizeof(uintptr_t) == sizeof(void*), "addresses are pointers");
const void* const* list_of(const Addresses& list) {
  return list.empty() ? nullptr : reinterpret_cast<const void* const*>(list.data());
}

Lists lists_of(const std::vector<int64_t>& numels) { return {numels.data(), int(numels.size())}; }

// Models to superpose; the lists outlive it.
struct Models {
  std::vector<const void*> tuned;
  Superposed all;

  Models(uintptr_t base, const std::vector<uintptr_t>& addresses, int dtype,
         const std::vector<uint64_t>& seeds, const std::vector<uint64_t>& streams,
         const std::vector<double>& weights, int transform) {
    for (const uintptr_t address : addresses) tuned.push_back(pointer(address));
    all = {pointer(base),  tuned.data(),      seeds.data(), streams.data(),
           weights.data(), int(tuned.size()), dtype,        transform};
  }
};

}  // namespace

PYBIND11_MODULE(_cpu, m) {
  m.doc() = "pydelta's CPU kernels. Arguments are checked by pydelta.ops, not here.";
  const py::call_guard<py::gil_scoped_release> unlocked;

  m.def("missing", [] { return ""; });
  m.def("isa", [] { return chosen->name; });
  m.def("isas", usable_isas);
  m.def("set_isa", set_isa, "name"_a);

  m.def(
      "hadamard",
      [](uintptr_t x, uintptr_t out, int dtype, int64_t numel, int64_t block, double scale, int threads) {
        chosen->kernels().hadamard(pointer(x), pointer(out), dtype, numel, block, scale, threads);
      },
      unlocked, "x"_a, "out"_a, "dtype"_a, "numel"_a, "block"_a, "scale"_a, "threads"_a);
  m.def(
      "sign_flip",
      [](uintptr_t x, uintptr_t out, int dtype, int64_t outer, int64_t n, int64_t inner, uint64_t seed,
         uint64_t key_stream, int threads) {
        const Axis axis{outer, n, inner};
        chosen->kernels().sign_flip(pointer(x), pointer(out), dtype, axis, {seed, key_stream}, threads);
      },
      unlocked, "x"_a, "out"_a, "dtype"_a, "outer"_a, "n"_a, "inner"_a, "seed"_a, "key_stream"_a,
      "threads"_a);
  m.def(
      "rotate",
      [](uintptr_t x, uintptr_t out, int dtype, int64_t rows, int64_t n, int64_t block, bool inverse,
         uint64_t seed, uint64_t key_stream, int threads) {
        chosen->kernels().rotate(pointer(x), pointer(out), dtype, rows, n, block, inverse, {seed, key_stream},
                                 threads);
      },
      unlocked, "x"_a, "out"_a, "dtype"_a, "rows"_a, "n"_a, "block"_a, "inverse"_a, "seed"_a, "key_stream"_a,
      "threads"_a);
  m.def(
      "superpose",
      [](uintptr_t base, const std::vector<uintptr_t>& tuned, uintptr_t out, int dtype, int out_dtype,
         int64_t outer, int64_t n, int64_t inner, const std::vector<uint64_t>& seeds,
         const std::vector<uint64_t>& streams, const std::vector<double>& weights, int transform,
         int threads) {
        const Models models(base, tuned, dtype, seeds, streams, weights, transform);
        chosen->kernels().superpose(models.all, pointer(out), out_dtype, Axis{outer, n, inner}, threads);
      },
      unlocked, "base"_a, "tuned"_a, "out"_a, "dtype"_a, "out_dtype"_a, "outer"_a, "n"_a, "inner"_a,
      "seeds"_a, "streams"_a, "weights"_a, "transform"_a, "threads"_a);
  m.def(
      "retrieve",
      [](uintptr_t base, uintptr_t superposed, uintptr_t out, int dtype, int superposed_dtype, int out_dtype,
         int64_t outer, int64_t n, int64_t inner, uint64_t seed, uint64_t key_stream, double lam,
         int transform, int threads) {
        const Axis axis{outer, n, inner};
        chosen->kernels().retrieve(pointer(base), pointer(superposed), pointer(out), dtype, superposed_dtype,
                                   out_dtype, axis, {seed, key_stream}, lam, transform, threads);
      },
      unlocked, "base"_a, "superposed"_a, "out"_a, "dtype"_a, "superposed_dtype"_a, "out_dtype"_a, "outer"_a,
      "n"_a, "inner"_a, "seed"_a, "key_stream"_a, "lam"_a, "transform"_a, "threads"_a);
  m.def(
      "merge_into",
      [](uintptr_t base, const std::vector<uintptr_t>& tuned, uintptr_t out, int dtype, int out_dtype,
         int64_t numel, int64_t n, int64_t start, const std::vector<int>& kinds,
         const std::vector<uint64_t>& seeds, const std::vector<uint64_t>& streams,
         const std::vector<uint64_t>& below, const std::vector<double>& factors,
         const std::vector<uintptr_t>& tables, const std::vector<double>& weights, int election, double lam,
         bool normalize, int threads) {
        std::vector<const void*> models;
        std::vector<Mask> masks;
        for (size_t k = 0; k < tuned.size(); ++k) {
          tables.at(k * kTables + kTables - 1);
          models.push_back(pointer(tuned[k]));
          masks.push_back(mask_of(kinds.at(k), seeds.at(k), streams.at(k), below.at(k), factors.at(k),
                                  &tables[k * kTables]));
        }
        chosen->kernels().merge_into(
            {pointer(base), pointer(base), models.data(), masks.data(), weights.data(), int(models.size()),
             pointer(out), dtype, out_dtype, numel, n, start, election, lam, normalize},
            threads);
      },
      unlocked, "base"_a, "tuned"_a, "out"_a, "dtype"_a, "out_dtype"_a, "numel"_a, "n"_a, "start"_a,
      "kinds"_a, "seeds"_a, "streams"_a, "below"_a, "factors"_a, "tables"_a, "weights"_a, "election"_a,
      "lam"_a, "normalize"_a, "threads"_a);
  m.def(
      "mask_rescale",
      [](uintptr_t delta, uintptr_t base, uintptr_t out, int dtype, int64_t numel, int64_t n, int kind,
         uint64_t seed, uint64_t key_stream, uint64_t below, double factor,
         const std::array<uintptr_t, kTables>& tables, int threads) {
        const Mask mask = mask_of(kind, seed, key_stream, below, factor, tables.data());
        chosen->kernels().mask_rescale(pointer(delta), pointer(base), pointer(out), dtype, numel, n, mask,
                                       threads);
      },
      unlocked, "delta"_a, "base"_a, "out"_a, "dtype"_a, "numel"_a, "n"_a, "kind"_a, "seed"_a, "key_stream"_a,
      "below"_a, "factor"_a, "tables"_a, "threads"_a);
  m.def(
      "magnitude_threshold",
      [](uintptr_t x, uintptr_t base, uintptr_t column_norm, int dtype, int64_t groups, int64_t size,
         int64_t low_rank, int64_t high_rank, uintptr_t low, uintptr_t low_index, uintptr_t high,
         uintptr_t high_index, int threads) {
        chosen->kernels().magnitude_threshold(
            {pointer(x), pointer(base), pointer(column_norm), dtype, groups, size, low_rank, high_rank,
             pointer(low), pointer<int64_t>(low_index), pointer(high), pointer<int64_t>(high_index)},
            threads);
      },
      unlocked, "x"_a, "base"_a, "column_norm"_a, "dtype"_a, "groups"_a, "size"_a, "low_rank"_a,
      "high_rank"_a, "low"_a, "low_index"_a, "high"_a, "high_index"_a, "threads"_a);
  m.def(
      "quantize",
      [](uintptr_t x, uintptr_t codes, uintptr_t scales, int dtype, int64_t rows, int64_t n, int bits,
         int64_t group, uintptr_t levels, uintptr_t thresholds, int threads) {
        const Codes q = codes_of(codes, scales, rows, n, bits, group, levels, thresholds);
        chosen->kernels().quantize(pointer(x), dtype, q, threads);
      },
      unlocked, "x"_a, "codes"_a, "scales"_a, "dtype"_a, "rows"_a, "n"_a, "bits"_a, "group"_a, "levels"_a,
      "thresholds"_a, "threads"_a);
  m.def(
      "dequantize",
      [](uintptr_t codes, uintptr_t scales, uintptr_t out, int out_dtype, int64_t rows, int64_t n, int bits,
         int64_t group, uintptr_t levels, int threads) {
        const Codes q = codes_of(codes, scales, rows, n, bits, group, levels, 0);
        chosen->kernels().dequantize(q, pointer(out), out_dtype, threads);
      },
      unlocked, "codes"_a, "scales"_a, "out"_a, "out_dtype"_a, "rows"_a, "n"_a, "bits"_a, "group"_a,
      "levels"_a, "threads"_a);
  m.def(
      "superpose_codes",
      [](uintptr_t base, const std::vector<uintptr_t>& tuned, uintptr_t codes, uintptr_t scales, int dtype,
         int64_t rows, int64_t n, const std::vector<uint64_t>& seeds, const std::vector<uint64_t>& streams,
         const std::vector<double>& weights, int transform, int bits, int64_t group, uintptr_t levels,
         uintptr_t thresholds, int threads) {
        const Models models(base, tuned, dtype, seeds, streams, weights, transform);
        const Codes q = codes_of(codes, scales, rows, n, bits, group, levels, thresholds);
        chosen->kernels().superpose_codes(models.all, q, threads);
      },
      unlocked, "base"_a, "tuned"_a, "codes"_a, "scales"_a, "dtype"_a, "rows"_a, "n"_a, "seeds"_a,
      "streams"_a, "weights"_a, "transform"_a, "bits"_a, "group"_a, "levels"_a, "thresholds"_a, "threads"_a);
  m.def(
      "retrieve_codes",
      [](uintptr_t base, uintptr_t codes, uintptr_t scales, uintptr_t out, int dtype, int out_dtype,
         int64_t rows, int64_t n, uint64_t seed, uint64_t key_stream, double lam, int transform, int bits,
         int64_t group, uintptr_t levels, int threads) {
        const Codes q = codes_of(codes, scales, rows, n, bits, group, levels, 0);
        chosen->kernels().retrieve_codes(pointer(base), q, pointer(out), dtype, out_dtype, {seed, key_stream},
                                         lam, transform, threads);
      },
      unlocked, "base"_a, "codes"_a, "scales"_a, "out"_a, "dtype"_a, "out_dtype"_a, "rows"_a, "n"_a, "seed"_a,
      "key_stream"_a, "lam"_a, "transform"_a, "bits"_a, "group"_a, "levels"_a, "threads"_a);
  m.def(
      "vera_matrix",
      [](uintptr_t out, int dtype, int64_t rows, int64_t columns, uint64_t first, uint64_t seed,
         uint64_t key_stream, int threads) {
        chosen->kernels().vera_matrix(pointer(out), dtype, rows, columns, first, {seed, key_stream}, threads);
      },
      unlocked, "out"_a, "dtype"_a, "rows"_a, "columns"_a, "first"_a, "seed"_a, "key_stream"_a, "threads"_a);
  m.def(
      "square_sums",
      [](const std::vector<int64_t>& numels, const Addresses& xs, const Addresses& weights, uintptr_t sums,
         int dtype, int weight_dtype, double eta, int threads) {
        chosen->kernels().square_sums({lists_of(numels), list_of(xs), list_of(weights), dtype, weight_dtype,
                                       eta, pointer<double>(sums)},
                                      threads);
      },
      unlocked, "numels"_a, "xs"_a, "weights"_a, "sums"_a, "dtype"_a, "weight_dtype"_a, "eta"_a, "threads"_a);
  m.def(
      "sam_perturb_",
      [](const std::vector<int64_t>& numels, const Addresses& params, const Addresses& grads,
         const Addresses& masters, const Addresses& backups, uintptr_t scale, int dtype, bool adaptive,
         double eta, int threads) {
        chosen->kernels().sam_perturb_({lists_of(numels), list_of(params), list_of(grads), list_of(masters),
                                        list_of(backups), dtype, pointer<double>(scale), adaptive, eta},
                                       threads);
      },
      unlocked, "numels"_a, "params"_a, "grads"_a, "masters"_a, "backups"_a, "scale"_a, "dtype"_a,
      "adaptive"_a, "eta"_a, "threads"_a);
  m.def(
      "sam_restore_",
      [](const std::vector<int64_t>& numels, const Addresses& params, const Addresses& sources, int dtype,
         int source_dtype, int threads) {
        chosen->kernels().sam_restore_(
            {lists_of(numels), list_of(params), list_of(sources), dtype, source_dtype}, threads);
      },
      unlocked, "numels"_a, "params"_a, "sources"_a, "dtype"_a, "source_dtype"_a, "threads"_a);
  m.def(
      "adamr_step_",
      [](const std::vector<int64_t>& numels, const Addresses& params, const Addresses& grads,
         const Addresses& exp_avgs, const Addresses& exp_avg_sqs, const Addresses& bases,
         const Addresses& masters, uintptr_t pull, uintptr_t sums, int dtype, int base_dtype, int64_t step,
         double lr, double one, double two, double eps, bool l1, int threads) {
        chosen->kernels().adamr_step_(
            {lists_of(numels), list_of(params), list_of(grads), list_of(exp_avgs), list_of(exp_avg_sqs),
             list_of(bases), list_of(masters), dtype, base_dtype, pointer<double>(pull), step, lr, one, two,
             eps, l1, pointer<double>(sums)},
            threads);
      },
      unlocked, "numels"_a, "params"_a, "grads"_a, "exp_avgs"_a, "exp_avg_sqs"_a, "bases"_a, "masters"_a,
      "pull"_a, "sums"_a, "dtype"_a, "base_dtype"_a, "step"_a, "lr"_a, "one"_a, "two"_a, "eps"_a, "l1"_a,
      "threads"_a);
  m.def(
      "few_rows",
      [](uintptr_t x, uintptr_t w, uintptr_t out, int dtype, int64_t rows, int64_t depth, int64_t width,
         int64_t step, int64_t out_step, bool across, bool add, int threads) {
        chosen->kernels().few_rows(
            {pointer(x), pointer(w), pointer(out), dtype, rows, depth, width, step, out_step, across, add},
            threads);
      },
      unlocked, "x"_a, "w"_a, "out"_a, "dtype"_a, "rows"_a, "depth"_a, "width"_a, "step"_a, "out_step"_a,
      "across"_a, "add"_a, "threads"_a);
  m.def(
      "superposed_linear",
      [](uintptr_t x, uintptr_t model, uintptr_t out, int dtype, int64_t batch,
         const std::vector<uint64_t>& seeds, const std::vector<uint64_t>& streams,
         const std::vector<float>& lams, uintptr_t codes, uintptr_t scales, int64_t rows, int64_t n, int bits,
         int64_t group, uintptr_t levels, int threads) {
        const Activations activations{
            pointer(x),     batch,      pointer<int64_t>(model), seeds.empty() ? nullptr : seeds.data(),
            streams.data(), lams.data()};
        const Codes q = codes_of(codes, scales, rows, n, bits, group, levels, 0);
        chosen->kernels().superposed_linear(activations, q, pointer(out), dtype, threads);
      },
      unlocked, "x"_a, "model"_a, "out"_a, "dtype"_a, "batch"_a, "seeds"_a, "streams"_a, "lams"_a, "codes"_a,
      "scales"_a, "rows"_a, "n"_a, "bits"_a, "group"_a, "levels"_a, "threads"_a);
}
