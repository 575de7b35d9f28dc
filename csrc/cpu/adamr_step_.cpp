#include <cmath>

#include "walk/lists.h"

namespace PYDELTA_NAMESPACE {
namespace {

// A step's numbers in the compute type; `pull` is 0 where nothing is pulled.
template <class C>
struct Numbers {
  C one, rest_one, two, rest_two, root, rate, eps, pull;
  bool l1;
};

template <class C>
PYDELTA_INLINE inline Vec<C> root_of(Vec<C> v) {
#if defined(__AVX512F__)
  if constexpr (sizeof(C) == 4) return (Vec<C>)_mm512_sqrt_ps((__m512)v);
  if constexpr (sizeof(C) == 8) return (Vec<C>)_mm512_sqrt_pd((__m512d)v);
#elif defined(__AVX2__)
  if constexpr (sizeof(C) == 4) return (Vec<C>)_mm256_sqrt_ps((__m256)v);
  if constexpr (sizeof(C) == 8) return (Vec<C>)_mm256_sqrt_pd((__m256d)v);
#else
  for (int i = 0; i < kLanes<C>; ++i) v[i] = std::sqrt(v[i]);
  return v;
#endif
}

template <class C>
PYDELTA_INLINE inline Vec<C> sign_of(Vec<C> v) {
  const auto one = bit_cast<VecBits<C>>(broadcast(C(1)));
  const auto nonzero = bit_cast<VecBits<C>>((v > 0) | (v < 0));
  return bit_cast<Vec<C>>((bit_cast<VecBits<C>>(v) & kSignBit<C>) | one) * bit_cast<Vec<C>>(nonzero & one);
}

// One vector of a step, as reference/adamr_step_.py has it.
template <bool pulls, class C>
PYDELTA_INLINE inline void advance(Vec<C>& w, Vec<C> g, Vec<C>& m, Vec<C>& v, Vec<C> base,
                                   const Numbers<C>& n) {
  m = m * n.one + g * n.rest_one;
  v = v * n.two + g * g * n.rest_two;
  if constexpr (pulls) {
    const Vec<C> tau = w - base;
    w = w - (n.l1 ? sign_of<C>(tau) : tau) * n.pull;
  }
  w = w - m / (root_of<C>(v) * n.root + n.eps) * n.rate;
}

// One chunk; the sum of the gradient's squares, if it `counts`. W: of the weights, the parameters themselves
// or their masters.
template <bool pulls, class T, class W, class B, class C = compute_t<T>>
double step(T* p, const T* g, C* m, C* v, const B* base, W* weights, int64_t count, bool counts,
            const Numbers<C>& n) {
  constexpr auto order = Order::halves;
  SquareLanes<C> lanes(counts ? count : 0);
  const bool copies = static_cast<const void*>(p) != weights;
  for (int64_t i = 0; i < count; i += 2 * kLanes<C>) {
    const int64_t left = count - i;
    const Pair<C> slope = load2_upto<order>(g + i, left);
    Pair<C> first = load2_upto<order>(m + i, left), second = load2_upto<order>(v + i, left);
    Pair<C> w = load2_upto<order>(weights + i, left), origin{};
    if constexpr (pulls) origin = load2_upto<order>(base + i, left);
    advance<pulls, C>(w.a, slope.a, first.a, second.a, origin.a, n);
    advance<pulls, C>(w.b, slope.b, first.b, second.b, origin.b, n);
    store2_upto<order>(m + i, first, left, false);
    store2_upto<order>(v + i, second, left, false);
    store2_upto<order>(weights + i, w, left, false);
    if (copies) store2_upto<order>(p + i, w, left, false);
    if (counts) lanes.add(i, slope);
  }
  return counts ? lanes.sum() : 0;
}

template <class C>
Numbers<C> numbers_of(const AdamR& job) {
  const double one = job.one, two = job.two;
  return {C(one),
          C(1 - one),
          C(two),
          C(1 - two),
          C(1 / std::sqrt(1 - std::pow(two, double(job.step)))),
          C(job.lr / (1 - std::pow(one, double(job.step)))),
          C(job.eps),
          C(job.pull == nullptr ? 0 : *job.pull),
          job.l1};
}

}  // namespace

void adamr_step_(const AdamR& job, int threads) {
  const auto chunks = chunks_of(job.lists);
  std::vector<double> partial(chunks.size());
  visit(job.dtype, [&](auto t) {
    using T = decltype(t);
    using C = compute_t<T>;
    const Numbers<C> n = numbers_of<C>(job);
    const auto run = [&](auto pulls, auto w, auto b, const void* const* weights) {
      using W = decltype(w);
      using B = decltype(b);
      const int64_t bytes = 7 * sizeof(C) + sizeof(B);
      for_chunks(chunks, elements_of(job.lists), bytes, threads, [&](int64_t i, const Chunk& chunk) {
        const B* const base = pulls ? at<const B>(job.bases, chunk) : nullptr;
        partial[size_t(i)] = step<pulls.value>(
            at<T>(job.params, chunk), at<const T>(job.grads, chunk), at<C>(job.exp_avgs, chunk),
            at<C>(job.exp_avg_sqs, chunk), base, at<W>(weights, chunk), chunk.count, job.sums != nullptr, n);
      });
    };
    const auto with_base = [&](auto w, const void* const* weights) {
      if (job.bases == nullptr || job.pull == nullptr) return run(std::false_type{}, w, C{}, weights);
      visit_of<C>(job.base_dtype, [&](auto b) { run(std::true_type{}, w, b, weights); });
    };
    if (job.masters == nullptr) return with_base(T{}, job.params);
    with_base(C{}, job.masters);
  });
  if (job.sums != nullptr) sum_chunks(chunks, partial, job.lists.tensors, job.sums);
}

}  // namespace PYDELTA_NAMESPACE
