#include "lists.cuh"

namespace PYDELTA_NAMESPACE {
namespace {

// Parameters, gradients, masters (of type S, or the parameters again), backups.
template <class T, class S>
__global__ void __launch_bounds__(kListThreads)
    perturb(const __grid_constant__ Table<4> table, const double* scale, bool adaptive, float eta,
            bool keeps) {
  const Chunk chunk = chunk_of(table);
  const auto list = [&](int k) { return table.address[k][chunk.tensor]; };
  T* const p = static_cast<T*>(list(0)) + chunk.start;
  const T* const g = static_cast<const T*>(list(1)) + chunk.start;
  const S* const source = static_cast<const S*>(list(2)) + chunk.start;
  T* const backup = static_cast<T*>(list(3)) + chunk.start;
  const float by = float(*scale);
#pragma unroll 2
  for (int i = int(threadIdx.x) * 4; i < chunk.count; i += kSumLanes) {
    const int left = chunk.count - i;
    float w[4], e[4];
    load_four(w, source + i, left, table.vector);
    load_four(e, g + i, left, table.vector);
    if (keeps) {
      float old[4];
      load_four(old, p + i, left, table.vector);
      store_four(backup + i, old, left, table.vector);
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (adaptive) {
        const float t = __fadd_rn(fabsf(w[j]), eta);
        e[j] = __fmul_rn(t, __fmul_rn(t, e[j]));
      }
      if (by != 0) w[j] = __fadd_rn(w[j], __fmul_rn(e[j], by));
    }
    store_four(p + i, w, left, table.vector);
  }
}

}  // namespace

void sam_perturb_(const std::vector<int64_t>& numels, const Addresses& params, const Addresses& grads,
                  const Addresses& masters, const Addresses& backups, const double* scale, Dtype dtype,
                  bool adaptive, float eta, Stream stream) {
  with_type(dtype, [&](auto t) {
    using T = decltype(t);
    const auto run = [&](auto s, const Addresses& sources) {
      using S = decltype(s);
      const auto launch = [&](const Table<4>& table, int chunks, int64_t) {
        const auto config = config_of(chunks, 0, stream);
        check("sam_perturb_",
              cudaLaunchKernelEx(&config, perturb<T, S>, table, scale, adaptive, eta, !backups.empty()));
      };
      for_tables<4>(numels, {&params, &grads, &sources, &backups}, launch);
    };
    if (masters.empty()) return run(T{}, params);
    run(float{}, masters);
  });
}

}  // namespace PYDELTA_NAMESPACE
