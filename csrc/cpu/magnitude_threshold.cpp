#include <limits>

#include "masks/search.h"

namespace PYDELTA_NAMESPACE {

namespace {

// Codes of a group of this size, or less, are kept in scratch memory.
constexpr int64_t kSmallGroup = int64_t(1) << 18;

// The elements of some ranks of a group that fits in scratch memory.
template <class T, class C = compute_t<T>>
void find_small(Group<T> group, const int64_t* ranks, Found<C>* found, int count) {
  const int64_t room = group.size + kRun<C>;
  bits_t<C>* const codes = scratch<bits_t<C>>(2 * room);
  group.fill(codes, 0, group.size);
  for (int i = 0; i < count; ++i) {
    const auto code = code_of_rank<C>(codes, group.size, ranks[i], codes + room);
    const int64_t above = codes_above<C>(codes, group.size, code);
    found[i] = {code, place_of(codes, group.size, code, ranks[i] - above)};
  }
}

template <class T, class C = compute_t<T>>
void thresholds(const Threshold& t, int threads) {
  C* const values[] = {static_cast<C*>(t.low), static_cast<C*>(t.high)};
  int64_t* const indices[] = {t.low_index, t.high_index};
  const int64_t wanted[] = {t.low_rank, t.high_rank};
  const bool large = t.size > kSmallGroup;
  const auto one = [&](int64_t g) {
    const T* const x = static_cast<const T*>(t.x) + g * t.size;
    const T* const base = t.base ? static_cast<const T*>(t.base) + g * t.size : nullptr;
    const Group<T> group{x, base, static_cast<const C*>(t.column_norm), t.size};
    int64_t ranks[2];
    Found<C> found[2];
    int count = 0;
    for (const int64_t rank : wanted) {
      if (rank > 0) ranks[count++] = rank;
    }
    if (large) {
      find_large(group, ranks, found, count, threads);
    } else {
      find_small(group, ranks, found, count);
    }
    for (int i = 0, next = 0; i < 2; ++i) {
      const bool none = wanted[i] == 0;  // no element lies before a cut at rank 0
      values[i][g] = none ? std::numeric_limits<C>::infinity() : bit_cast<C>(found[next].code);
      indices[i][g] = none ? 0 : found[next].index + 1;
      next += !none;
    }
  };
  const int64_t bytes = (t.base ? 2 : 1) * int64_t(sizeof(T)) * t.size;
  parallel_for(t.groups, 8 * bytes, large ? 1 : threads, one);
}

}  // namespace

void magnitude_threshold(const Threshold& threshold, int threads) {
  visit(threshold.dtype, [&](auto t) { thresholds<decltype(t)>(threshold, threads); });
}

}  // namespace PYDELTA_NAMESPACE
