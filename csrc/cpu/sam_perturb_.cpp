#include "walk/lists.h"

namespace PYDELTA_NAMESPACE {
namespace {

// w + e, as reference/sam_perturb_.py has it.
template <class C>
PYDELTA_INLINE inline Vec<C> perturbed(Vec<C> w, Vec<C> g, C scale, bool adaptive, C eta) {
  if (!adaptive) return w + g * scale;
  const Vec<C> t = magnitude_of<C>(w) + eta;
  return w + t * (t * g) * scale;
}

// One chunk. A backup is written around the cache, where it is not needed before the gradient has been there.
template <class T, class S, class C = compute_t<T>>
void perturb(T* p, const T* g, const S* source, T* backup, int64_t count, C scale, bool adaptive, C eta) {
  constexpr int step = 2 * kLanes<C>;
  const bool around = reinterpret_cast<uintptr_t>(backup) % kVectorBytes == 0;
  for (int64_t i = 0; i < count; i += step) {
    const int64_t left = count - i;
    const Pair<C> w = load2_upto<Order::halves>(source + i, left);
    if (backup != nullptr) {
      store2_upto<Order::halves>(backup + i, load2_upto<Order::halves>(p + i, left), left, around);
    }
    Pair<C> moved = w;
    if (scale != 0) {
      const Pair<C> slope = load2_upto<Order::halves>(g + i, left);
      moved = {perturbed<C>(w.a, slope.a, scale, adaptive, eta),
               perturbed<C>(w.b, slope.b, scale, adaptive, eta)};
    }
    store2_upto<Order::halves>(p + i, moved, left, false);
  }
  if (around) write_fence();
}

}  // namespace

void sam_perturb_(const Perturb& job, int threads) {
  const auto chunks = chunks_of(job.lists);
  visit(job.dtype, [&](auto t) {
    using T = decltype(t);
    using C = compute_t<T>;
    const C scale = C(*job.scale), eta = C(job.eta);
    const auto run = [&](auto s, const void* const* sources) {
      using S = decltype(s);
      for_chunks(chunks, elements_of(job.lists), 4 * sizeof(T), threads, [&](int64_t, const Chunk& chunk) {
        T* const backup = job.backups == nullptr ? nullptr : at<T>(job.backups, chunk);
        perturb(at<T>(job.params, chunk), at<const T>(job.grads, chunk), at<const S>(sources, chunk), backup,
                chunk.count, scale, job.adaptive, eta);
      });
    };
    if (job.masters == nullptr) return run(T{}, job.params);
    run(C{}, job.masters);
  });
}

}  // namespace PYDELTA_NAMESPACE
