#include "mask.cuh"
#include "merge_into.cuh"
#include "scratch.cuh"

namespace PYDELTA_NAMESPACE {
namespace {

// As many models as a launch takes as parameters.
constexpr int kModels = 32;

struct DeviceModel {
  const void* tuned;
  DeviceMask mask;
  float weight;
};

struct Models {
  DeviceModel all[kModels];
  __device__ __forceinline__ const DeviceModel& operator[](int k) const { return all[k]; }
};

template <class T, class List>
struct Merge {
  const T* base;
  List models;  // Models, or a table on the device
  int count;
  void* out;
  Dtype out_dtype;
  int64_t numel, n, start;
  Merging merging;
  bool vector;
};

// One vector of 16 bytes a thread, so that many threads fit.
template <class T>
using MergePlan = Plan<16 / int(sizeof(T)), 1, 256, false>;

// One pass over the models for the sum. An election takes a second one, now that the signs are known: the
// terms are made again, from the cache, rather than kept. A sum that is NaN stays. Two models are under way
// while one is worked on.
template <class T, class List, bool kMasked, bool kElects>
__global__ void __launch_bounds__(256, kElects ? 3 : 4) merge(const __grid_constant__ Merge<T, List> g) {
  using P = MergePlan<T>;
  constexpr int V = P::V;
  const Slots slots = own_slots<P>();
  const Row row{0, g.numel, 1, g.vector};
  const int64_t at = first_column<P>(slots);
  if (at >= g.numel) return;
  const Place place{at, g.n, g.start, int(min(g.numel - at, int64_t(V)))};
  const bool elects = kElects && g.merging.elect != Election::sum;
  const bool unweighted = kElects && g.merging.elect == Election::ties_unweighted;
  const auto load_tuned = [&](Words<T, V>& to, int k) {
    if (k < g.count) load<P, 1>(&to, static_cast<const T*>(g.models[k].tuned), row, slots, 0);
  };
  Words<T, V> base = {}, next, after;
  if (g.base != nullptr) load<P, 1>(&base, g.base, row, slots, 0);
  float sum[V] = {}, divisor[V] = {};
  bool minus[V] = {};

#pragma unroll 1
  for (int pass = 0; pass < (elects ? 2 : 1); ++pass) {
    if (pass == 1) {
#pragma unroll
      for (int i = 0; i < V; ++i) minus[i] = sum[i] < 0, sum[i] = sum[i] != sum[i] ? sum[i] : 0;
    }
    load_tuned(next, 0);
    load_tuned(after, 1);
#pragma unroll 1
    for (int k = 0; k < g.count; ++k) {
      const DeviceModel& model = g.models[k];
      float v[V];
#pragma unroll
      for (int i = 0; i < V; ++i) v[i] = __fsub_rn(element(next, i), element(base, i));
      next = after;
      load_tuned(after, k + 2);
      if constexpr (kMasked) apply(model.mask, v, place);
#pragma unroll
      for (int i = 0; i < V; ++i) {
        float term = __fmul_rn(v[i], model.weight);
        if (kElects && pass == 1) {
          const float sign = unweighted ? v[i] : term;
          const bool agrees = minus[i] ? sign < 0 : sign > 0;
          divisor[i] = __fadd_rn(divisor[i], __fmul_rn(agrees, model.weight));
          term = agrees ? term : 0;
        } else if (unweighted) {
          term = v[i];
        }
        sum[i] = __fadd_rn(sum[i], term);
      }
    }
  }

#pragma unroll
  for (int i = 0; i < V; ++i) {
    if (elects && g.merging.normalize) {
      sum[i] = __fdiv_rn(sum[i], fabsf(divisor[i]) < float(kLeastDivisor) ? 1.0f : divisor[i]);
    }
    const float onto = g.merging.onto_base ? element(base, i) : 0.0f;
    sum[i] = __fadd_rn(onto, __fmul_rn(sum[i], g.merging.lam));
  }
  emit<P>(g.out, g.out_dtype, sum, row, slots);
}

template <class T, class List, bool kMasked, bool kElects>
void start_merge(const char* op, const Merge<T, List>& g, Stream stream) {
  constexpr int kTile = MergePlan<T>::kTile;
  const Grid grid{dim3(unsigned((g.numel + kTile - 1) / kTile)), MergePlan<T>::kThreads};
  start(op, merge<T, List, kMasked, kElects>, grid, stream, g);
}

// Writes a launch's models behind those that earlier launches wrote.
__global__ void place_models(const __grid_constant__ Models models, int count, DeviceModel* table) {
  if (int(threadIdx.x) < count) table[threadIdx.x] = models[int(threadIdx.x)];
}

Models some(const std::vector<DeviceModel>& models, int first, int count) {
  Models found{};
  for (int k = 0; k < count; ++k) found.all[k] = models[first + k];
  return found;
}

// For more models than a launch takes as parameters, the most general kernel reads a table. A copy from the
// host could be in no CUDA graph.
template <class T>
void merge_many(const char* op, const std::vector<DeviceModel>& models, Merge<T, DeviceModel*> g,
                Stream stream) {
  const Scratch table(op, models.size() * sizeof(DeviceModel), stream);
  g.models = table.as<DeviceModel>();
  for (int first = 0; first < g.count; first += kModels) {
    const int count = min(kModels, g.count - first);
    start(op, place_models, {dim3(1), kModels}, stream, some(models, first, count), count, g.models + first);
  }
  start_merge<T, DeviceModel*, true, true>(op, g, stream);
}

template <class T, class List>
Merge<T, List> merge_of(const void* base, const std::vector<DeviceModel>& models, const Target& target,
                        const Merging& merging) {
  constexpr int V = MergePlan<T>::V;
  bool vector = aligned<V>(base, sizeof(T)) && aligned<V>(target.out, size_of(target.out_dtype));
  for (const DeviceModel& model : models) vector = vector && aligned<V>(model.tuned, sizeof(T));
  const auto [out, out_dtype, numel, n, start] = target;
  return {static_cast<const T*>(base), {}, int(models.size()), out, out_dtype, numel, n, start, merging,
          vector && numel % V == 0};
}

}  // namespace

void merge_masked(const char* op, const void* base, const std::vector<MaskedModel>& given, Dtype dtype,
                  const Target& target, const Merging& merging, Stream stream) {
  if (target.numel == 0) return;
  std::vector<DeviceModel> models;
  bool masked = false;
  for (const auto& [tuned, mask, weight] : given) {
    models.push_back({tuned, on_device(mask), weight});
    masked = masked || models.back().mask.kind != MaskKind::none || models.back().mask.factor != 1;
  }
  const bool elects = merging.elect != Election::sum;
  with_type(dtype, [&](auto type) {
    using T = decltype(type);
    if (models.size() > kModels) {
      return merge_many<T>(op, models, merge_of<T, DeviceModel*>(base, models, target, merging), stream);
    }
    Merge<T, Models> g = merge_of<T, Models>(base, models, target, merging);
    g.models = some(models, 0, g.count);
    if (masked && elects) return start_merge<T, Models, true, true>(op, g, stream);
    if (masked) return start_merge<T, Models, true, false>(op, g, stream);
    if (elects) return start_merge<T, Models, false, true>(op, g, stream);
    start_merge<T, Models, false, false>(op, g, stream);
  });
}

void merge_into(const void* base, const std::vector<MaskedModel>& models, void* out, Dtype dtype,
                Dtype out_dtype, int64_t numel, int64_t n, int64_t start, Merging merging, Stream stream) {
  merge_masked("merge_into", base, models, dtype, {out, out_dtype, numel, n, start}, merging, stream);
}

}  // namespace PYDELTA_NAMESPACE
