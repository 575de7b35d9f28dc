#include "walk/lists.h"

namespace PYDELTA_NAMESPACE {
namespace {

template <class T, class S, class C = compute_t<T>>
void copy(T* p, const S* source, int64_t count, bool large) {
  if constexpr (std::is_same_v<T, S>) {
    if (!large) {
      memcpy(p, source, size_t(count) * sizeof(T));
      return;
    }
  }
  const bool around = large && reinterpret_cast<uintptr_t>(p) % kVectorBytes == 0;
  for (int64_t i = 0; i < count; i += 2 * kLanes<C>) {
    store2_upto<Order::halves>(p + i, load2_upto<Order::halves>(source + i, count - i), count - i, around);
  }
  if (around) write_fence();
}

}  // namespace

void sam_restore_(const Restore& job, int threads) {
  const auto chunks = chunks_of(job.lists);
  const int64_t elements = elements_of(job.lists);
  visit(job.dtype, [&](auto t) {
    using T = decltype(t);
    const auto run = [&](auto s) {
      using S = decltype(s);
      const bool large = elements * int64_t(sizeof(T)) >= kAroundBytes;
      for_chunks(chunks, elements, sizeof(T) + sizeof(S), threads, [&](int64_t, const Chunk& chunk) {
        copy(at<T>(job.params, chunk), at<const S>(job.sources, chunk), chunk.count, large);
      });
    };
    if (job.source_dtype == job.dtype) return run(T{});
    if constexpr (sizeof(T) == 2) run(float{});
  });
}

}  // namespace PYDELTA_NAMESPACE
