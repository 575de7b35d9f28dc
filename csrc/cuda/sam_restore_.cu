#include "lists.cuh"

namespace PYDELTA_NAMESPACE {
namespace {

template <class T, class S>
__global__ void __launch_bounds__(kListThreads) restore(const __grid_constant__ Table<2> table) {
  const Chunk chunk = chunk_of(table);
  T* const p = static_cast<T*>(table.address[0][chunk.tensor]) + chunk.start;
  const S* const source = static_cast<const S*>(table.address[1][chunk.tensor]) + chunk.start;
#pragma unroll 4
  for (int i = int(threadIdx.x) * 4; i < chunk.count; i += kSumLanes) {
    float w[4];
    load_four(w, source + i, chunk.count - i, table.vector);
    store_four(p + i, w, chunk.count - i, table.vector);
  }
}

}  // namespace

void sam_restore_(const std::vector<int64_t>& numels, const Addresses& params, const Addresses& sources,
                  Dtype dtype, Dtype source_dtype, Stream stream) {
  with_type(dtype, [&](auto t) {
    using T = decltype(t);
    const auto run = [&](auto s) {
      using S = decltype(s);
      for_tables<2>(numels, {&params, &sources}, [&](const Table<2>& table, int chunks, int64_t) {
        const auto config = config_of(chunks, 0, stream);
        check("sam_restore_", cudaLaunchKernelEx(&config, restore<T, S>, table));
      });
    };
    if (source_dtype == dtype) return run(T{});
    if constexpr (sizeof(T) == 2) run(float{});
  });
}

}  // namespace PYDELTA_NAMESPACE
