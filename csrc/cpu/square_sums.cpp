#include "walk/lists.h"

namespace PYDELTA_NAMESPACE {
namespace {

template <class T, class W>
double sum_of(const T* x, const W* weights, int64_t count, compute_t<T> eta) {
  using C = compute_t<T>;
  SquareLanes<C> lanes(count);
  for (int64_t i = 0; i < count; i += 2 * kLanes<C>) {
    Pair<C> v = load2_upto<Order::halves>(x + i, count - i);
    if (weights != nullptr) {
      const Pair<C> w = load2_upto<Order::halves>(weights + i, count - i);
      v = {(magnitude_of<C>(w.a) + eta) * v.a, (magnitude_of<C>(w.b) + eta) * v.b};
    }
    lanes.add(i, v);
  }
  return lanes.sum();
}

}  // namespace

void square_sums(const SquareSums& job, int threads) {
  const auto chunks = chunks_of(job.lists);
  std::vector<double> partial(chunks.size());
  visit(job.dtype, [&](auto t) {
    using T = decltype(t);
    using C = compute_t<T>;
    const auto run = [&](auto w) {
      using W = decltype(w);
      for_chunks(chunks, elements_of(job.lists), sizeof(T), threads, [&](int64_t i, const Chunk& chunk) {
        const W* const weights = job.weights == nullptr ? nullptr : at<const W>(job.weights, chunk);
        partial[size_t(i)] = sum_of(at<const T>(job.xs, chunk), weights, chunk.count, C(job.eta));
      });
    };
    if (job.weight_dtype == job.dtype) return run(T{});
    if constexpr (sizeof(T) == 2) run(float{});
  });
  sum_chunks(chunks, partial, job.lists.tensors, job.sums);
}

}  // namespace PYDELTA_NAMESPACE
