#include <vector>

#include "masks/ranks.h"
#include "walk/walk.h"

namespace PYDELTA_NAMESPACE {

namespace {

// Elements of a tile: few enough that L1 holds them until their random bits are there.
template <class T>
constexpr int64_t kMergeTile = 4096 / int64_t(sizeof(T));

template <class C>
struct Model {
  const void* tuned;
  C weight;
  TensorMask<C> mask;
};

// The merge as the loops see it. base: what deltas are taken from; onto: the same, or null if the sum is not
// added to it. Both may be null, for zeros.
template <class T, class O, class C = compute_t<T>>
struct Job {
  const T* base;
  const T* onto;
  O* out;
  std::vector<Model<C>> models;
  int64_t length, start;  // of a row; a tensor without masks by row is one
  C lam;
  Election election;
  bool normalize, around;
};

// One model in one tile.
template <class T, class C = compute_t<T>>
struct TileModel {
  const T* tuned;
  C weight;
  TileMask<C> mask;
};

// A tile to merge: pointers to its first elements.
template <class T, class O, class C = compute_t<T>>
struct MergeTile {
  const T* base;
  const T* onto;
  O* out;
  const TileModel<T>* models;
  int count;
  int64_t length;
  Pair<C>* values;  // room for one per model, for elections
};

// A pair of vectors; what follows is fetched some lines ahead, for there are more streams than hardware
// tells.
template <Order order, class T, class C = compute_t<T>>
PYDELTA_INLINE inline Pair<C> load_ahead(const T* p, int64_t left) {
  constexpr int kAhead = 512, kBytes = 2 * kLanes<C> * sizeof(T);
  for (int i = 0; i < kBytes; i += 64)
    __builtin_prefetch(reinterpret_cast<const char*>(p) + kAhead + i, 0, 2);
  return load2_upto<order>(p, left);
}

// The sum of the weighted deltas, in the models' order. keep: what all models are kept by, or mixed.
template <Keep keep, Order order, class T, class C = compute_t<T>>
PYDELTA_INLINE inline Pair<C> sum_of(const TileModel<T>* first, const TileModel<T>* end, Pair<C> base,
                                     int64_t j, int64_t left) {
  Pair<C> sum{};
  for (const TileModel<T>* m = first; m != end; ++m) {
    const Pair<C> theta = load_ahead<order>(m->tuned + j, left);
    const Vec<C> weight = broadcast(m->weight);
    const Pair<C> d = masked<keep, order>(m->mask, j, left, Pair<C>{theta.a - base.a, theta.b - base.b});
    sum = {sum.a + d.a * weight, sum.b + d.b * weight};
  }
  return sum;
}

// sum + what where v flipped by `minus` is positive, sum elsewhere.
template <class C>
PYDELTA_INLINE inline Vec<C> add_agreeing(Vec<C> sum, Vec<C> v, VecBits<C> minus, Vec<C> what) {
  const Vec<C> flipped = bit_cast<Vec<C>>(bit_cast<VecBits<C>>(v) ^ minus);
#if defined(__AVX512F__)
  if constexpr (sizeof(C) == 4) {
    const auto agrees = _mm512_cmp_ps_mask((__m512)flipped, _mm512_setzero_ps(), _CMP_GT_OQ);
    return (Vec<C>)_mm512_mask_add_ps((__m512)sum, agrees, (__m512)sum, (__m512)what);
  } else {
    const auto agrees = _mm512_cmp_pd_mask((__m512d)flipped, _mm512_setzero_pd(), _CMP_GT_OQ);
    return (Vec<C>)_mm512_mask_add_pd((__m512d)sum, agrees, (__m512d)sum, (__m512d)what);
  }
#else
  const auto agrees = (VecBits<C>)(flipped > Vec<C>{});
  return sum + bit_cast<Vec<C>>(bit_cast<VecBits<C>>(what) & agrees);
#endif
}

// a / b, and a where b is next to nothing.
template <class C>
PYDELTA_INLINE inline Vec<C> divide(Vec<C> a, Vec<C> b) {
  const Vec<C> size = bit_cast<Vec<C>>(codes_of<C>(b)), one = broadcast(C(1));
  return a / (size < broadcast(C(kLeastDivisor)) ? one : b);
}

// v where it is NaN, 0 elsewhere.
template <class C>
PYDELTA_INLINE inline Vec<C> only_nan(Vec<C> v) {
  return bit_cast<Vec<C>>(bit_cast<VecBits<C>>(v) & (VecBits<C>)(v != v));
}

// TIES: the sum of the terms whose sign is that of the sum of all values. Values are weighted deltas, or
// those without weights (`plain`). A sum that is NaN stays.
template <bool plain, Keep keep, Order order, class T, class C = compute_t<T>>
PYDELTA_INLINE inline Pair<C> elected_sum(const TileModel<T>* models, int count, Pair<C> base,
                                          Pair<C>* values, int64_t j, int64_t left, bool normalize) {
  Pair<C> all{}, divisor{};
  for (int k = 0; k < count; ++k) {
    const TileModel<T>& m = models[k];
    const Pair<C> theta = load_ahead<order>(m.tuned + j, left);
    Pair<C> v = masked<keep, order>(m.mask, j, left, Pair<C>{theta.a - base.a, theta.b - base.b});
    if (!plain) v = {v.a * broadcast(m.weight), v.b * broadcast(m.weight)};
    all = {all.a + v.a, all.b + v.b};
    values[k] = v;
  }
  const VecBits<C> minus_a = (VecBits<C>)(all.a < Vec<C>{}) & kSignBit<C>,
                   minus_b = (VecBits<C>)(all.b < Vec<C>{}) & kSignBit<C>;
  Pair<C> sum{only_nan<C>(all.a), only_nan<C>(all.b)};
  for (int k = 0; k < count; ++k) {
    const Vec<C> weight = broadcast(models[k].weight);
    const Pair<C> v = values[k], term = plain ? Pair<C>{v.a * weight, v.b * weight} : v;
    sum = {add_agreeing<C>(sum.a, v.a, minus_a, term.a), add_agreeing<C>(sum.b, v.b, minus_b, term.b)};
    if (!normalize) continue;
    divisor = {add_agreeing<C>(divisor.a, v.a, minus_a, weight),
               add_agreeing<C>(divisor.b, v.b, minus_b, weight)};
  }
  return normalize ? Pair<C>{divide<C>(sum.a, divisor.a), divide<C>(sum.b, divisor.b)} : sum;
}

// body(j, left) for every pair of vectors of a tile; all but the last are whole, and the compiler knows it.
template <class C, class Body>
PYDELTA_INLINE inline void for_pairs(int64_t length, const Body& body) {
  constexpr int64_t places = 2 * kLanes<C>;
  int64_t j = 0;
  for (; j + places <= length; j += places) body(j, places);
  if (j < length) body(j, length - j);
}

// out = onto + lam * sum(base, j, left), rounded once.
template <Order order, class T, class O, class Sum, class C = compute_t<T>>
PYDELTA_INLINE inline void merge_pairs(const MergeTile<T, O>& tile, C lam, bool around, const Sum& sum_at) {
  for_pairs<C>(tile.length, [&](int64_t j, int64_t left) PYDELTA_INLINE {
    const Pair<C> base = tile.base ? load_ahead<order>(tile.base + j, left) : Pair<C>{};
    const Pair<C> onto = tile.onto ? base : Pair<C>{};
    const Pair<C> sum = sum_at(base, j, left);
    const Vec<C> factor = broadcast(lam);
    store2_upto<order>(tile.out + j, Pair<C>{onto.a + sum.a * factor, onto.b + sum.b * factor}, left, around);
  });
}

template <Keep keep, class T, class O>
[[gnu::noinline]] void merge_summed(const Job<T, O>& job, MergeTile<T, O> tile) {
  using C = compute_t<T>;
  constexpr Order order = order_of<T, O>;
  merge_pairs<order>(tile, job.lam, job.around, [=](Pair<C> base, int64_t j, int64_t left) PYDELTA_INLINE {
    return sum_of<keep, order>(tile.models, tile.models + tile.count, base, j, left);
  });
}

template <bool plain, Keep keep, class T, class O>
[[gnu::noinline]] void merge_elected(const Job<T, O>& job, MergeTile<T, O> tile) {
  using C = compute_t<T>;
  constexpr Order order = order_of<T, O>;
  const bool normalize = job.normalize;
  merge_pairs<order>(tile, job.lam, job.around, [=](Pair<C> base, int64_t j, int64_t left) PYDELTA_INLINE {
    return elected_sum<plain, keep, order>(tile.models, tile.count, base, tile.values, j, left, normalize);
  });
}

// Models that are kept by the same have loops of their own.
template <class Body>
void visit_keep(Keep keep, const Body& body) {
  switch (keep) {
    case Keep::all:
      return body(std::integral_constant<Keep, Keep::all>());
    case Keep::range:
      return body(std::integral_constant<Keep, Keep::range>());
    case Keep::bits:
      return body(std::integral_constant<Keep, Keep::bits>());
    default:
      return body(std::integral_constant<Keep, Keep::mixed>());
  }
}

template <class T, class O>
void merge_tile(const Job<T, O>& job, const MergeTile<T, O>& tile) {
  Keep common = tile.models[0].mask.keep;
  for (int k = 1; k < tile.count; ++k) {
    if (tile.models[k].mask.keep != common) common = Keep::mixed;
  }
  visit_keep(common, [&](auto k) {
    constexpr Keep keep = decltype(k)::value;
    if (job.election == Election::ties) return merge_elected<false, keep>(job, tile);
    if (job.election == Election::ties_unweighted) return merge_elected<true, keep>(job, tile);
    merge_summed<keep>(job, tile);
  });
}

// Memory for the tiles of a row. What thousands of models or a very long row need is given back afterwards.
template <class T, class C = compute_t<T>>
struct Space {
  static constexpr int64_t kKept = int64_t(1) << 24;
  TileModel<T>* models;
  Pair<C>* values;
  C* factors;
  uint32_t* words;
  Scratch own;

  Space(int64_t count, int64_t della_row) {
    const auto size = [](int64_t bytes) { return ceil_div(bytes, kVectorBytes) * kVectorBytes; };
    const int64_t models_size = size(count * int64_t(sizeof(TileModel<T>))),
                  values_size = size(count * int64_t(sizeof(Pair<C>))),
                  factors_size = size(count * della_row * int64_t(sizeof(C))),
                  words_size = size(count * bit_words(kMergeTile<T>) * int64_t(sizeof(uint32_t))),
                  total = models_size + values_size + factors_size + words_size;
    char* const memory = total <= kKept ? scratch<char>(total) : static_cast<char*>(own.get(size_t(total)));
    models = reinterpret_cast<TileModel<T>*>(memory);
    values = reinterpret_cast<Pair<C>*>(memory + models_size);
    factors = reinterpret_cast<C*>(memory + models_size + values_size);
    words = reinterpret_cast<uint32_t*>(memory + models_size + values_size + factors_size);
  }
};

// Elements begin .. end - 1 of a row.
template <class T, class O, class C = compute_t<T>>
void merge_part(const Job<T, O>& job, int64_t row, int64_t begin, int64_t end, bool della) {
  const auto count = int64_t(job.models.size());
  const int64_t first = row * job.length, factors_each = della ? job.length : 0;
  const Space<T> space(count, factors_each);
  for (int64_t k = 0; della && k < count; ++k) {
    const Model<C>& m = job.models[size_t(k)];
    if (m.mask.kind != MaskKind::della) continue;
    della_factors(m.mask, static_cast<const T*>(m.tuned) + first, job.base ? job.base + first : nullptr,
                  job.start + first, job.length, space.factors + k * factors_each);
  }
  for (int64_t j = begin; j < end; j += kMergeTile<T>) {
    const int64_t offset = first + j, length = least(kMergeTile<T>, end - j);
    for (int64_t k = 0; k < count; ++k) {
      const Model<C>& m = job.models[size_t(k)];
      space.models[k] = {
          static_cast<const T*>(m.tuned) + offset, m.weight,
          mask_of_tile(m.mask, TilePlace{row, j, job.start + offset, length}, order_of<T, O>,
                       Fetch{static_cast<const T*>(m.tuned) + offset, int(sizeof(T))},
                       space.words + k * bit_words(kMergeTile<T>), space.factors + k * factors_each + j)};
    }
    merge_tile(job,
               MergeTile<T, O>{job.base ? job.base + offset : nullptr, job.onto ? job.onto + offset : nullptr,
                               job.out + offset, space.models, int(count), length, space.values});
  }
  if (job.around) write_fence();
}

template <class T, class O, class C = compute_t<T>>
void merge(const Merge& m, int threads) {
  Job<T, O> job{static_cast<const T*>(m.base),
                static_cast<const T*>(m.onto),
                static_cast<O*>(m.out),
                {},
                m.numel,
                m.start,
                C(m.lam),
                Election(m.election),
                m.normalize,
                false};
  bool by_row = false, della = false, inputs_apart = true;
  for (int k = 0; k < m.models; ++k) {
    job.models.push_back({m.tuned[k], C(m.weights[k]), TensorMask<C>(m.masks[k])});
    by_row |= job.models.back().mask.by_row();
    della |= job.models.back().mask.kind == MaskKind::della;
    inputs_apart &= m.tuned[k] != m.out;
  }
  if (by_row) job.length = m.n;
  if (m.numel == 0) return;
  const int64_t rows = m.numel / job.length, piece = della ? job.length : kMergeTile<T>;
  // Tiles begin at multiples of a tile, so where there is but one row only they need to be aligned.
  const int64_t aligned = rows == 1 ? m.numel / kMergeTile<T> * kMergeTile<T> : job.length;
  job.around = inputs_apart && writes_around(job.out, Axis{rows, aligned, 1}, m.base);
  const int64_t pieces = ceil_div(job.length, piece),
                bytes = (m.models + 1) * int64_t(sizeof(T)) + int64_t(sizeof(O));
  parallel_for(rows * pieces, least(piece, job.length) * bytes, threads, [&](int64_t i) {
    const int64_t begin = i % pieces * piece;
    merge_part(job, i / pieces, begin, least(begin + piece, job.length), della);
  });
}

}  // namespace

void merge_into(const Merge& m, int threads) {
  visit(m.dtype, [&](auto t) {
    visit_of<compute_t<decltype(t)>>(m.out_dtype,
                                     [&](auto o) { merge<decltype(t), decltype(o)>(m, threads); });
  });
}

}  // namespace PYDELTA_NAMESPACE
