// The ranks of a row's magnitudes, by a stable radix sort: what DELLA's probabilities go by.
#pragma once
#include "masks.h"
#include "select.h"

namespace PYDELTA_NAMESPACE {

// What is sorted: a key in the order of magnitudes, and its place in the row.
template <class C>
struct Ranked {
  bits_t<C> key;
  uint32_t place;
};

constexpr int kDigitBits = 11;

// A stable pass of the sort, larger digits first: from `items` to `sorted`.
template <class C>
inline void sort_digit(const Ranked<C>* items, Ranked<C>* sorted, int64_t n, int shift, int bits) {
  uint32_t next[1 << kDigitBits];
  const bits_t<C> last = (bits_t<C>(1) << bits) - 1;
  memset(next, 0, sizeof(next));
  for (int64_t i = 0; i < n; ++i) ++next[items[i].key >> shift & last];
  uint32_t total = 0;
  for (int64_t digit = int64_t(last); digit >= 0; --digit) {
    const uint32_t count = next[digit];
    next[digit] = total;
    total += count;
  }
  for (int64_t i = 0; i < n; ++i) sorted[next[items[i].key >> shift & last]++] = items[i];
}

// Sorts by bits `skip` .. `bits` - 1 of the keys. other: memory of the same size; the result lies in `items`.
template <class C>
void sort_digits(Ranked<C>*& items, Ranked<C>*& other, int64_t n, int skip, int bits) {
  const int passes = int(ceil_div(bits - skip, kDigitBits));
  for (int pass = 0; pass < passes; ++pass) {
    const int digit = int(ceil_div(bits - skip, passes));
    sort_digit<C>(items, other, n, skip + pass * digit, digit);
    std::swap(items, other);
  }
}

// Sorts what is nearly sorted, equal keys staying in their order; false if it takes more than n moves.
template <class C>
bool insert(Ranked<C>* items, int64_t n) {
  int64_t moves = 0;
  for (int64_t i = 1; i < n; ++i) {
    if (items[i].key <= items[i - 1].key) continue;
    const Ranked<C> item = items[i];
    int64_t j = i;
    for (; j > 0 && items[j - 1].key < item.key; --j) items[j] = items[j - 1];
    items[j] = item;
    moves += i - j;
    if (moves > n) return false;
  }
  return true;
}

// The codes' places in the order of rank: larger magnitudes first, equal ones by place. items: room for 2 n;
// the result lies somewhere there. Keys are the bits in which codes differ. Two digits of them almost always
// put nearly all in order.
template <class C>
Ranked<C>* sort_by_rank(const bits_t<C>* codes, int64_t n, Ranked<C>* items) {
  bits_t<C> low = codes[0], high = codes[0], differing = 0;
  for (int64_t i = 1; i < n; ++i) {
    low = codes[i] < low ? codes[i] : low;
    high = codes[i] > high ? codes[i] : high;
    differing |= codes[i] ^ codes[0];
  }
  const int below = differing ? __builtin_ctzll(differing) : 0;
  for (int64_t i = 0; i < n; ++i) items[i] = {(codes[i] - low) >> below, uint32_t(i)};
  const uint64_t range = uint64_t((high - low) >> below);
  const int bits = range ? 64 - __builtin_clzll(range) : 0,
            skip = bits > 2 * kDigitBits ? bits - 2 * kDigitBits : 0;
  Ranked<C>* other = items + n;
  sort_digits<C>(items, other, n, skip, bits);
  if (skip > 0 && !insert(items, n)) sort_digits<C>(items, other, n, 0, bits);
  return items;
}

// Memory for one row: what is sorted, twice, and the row's codes, later its draws. Small rows' is kept by the
// thread.
template <class C>
struct RankSpace {
  static constexpr int64_t kKept = int64_t(1) << 18;
  Ranked<C>* items;
  bits_t<C>* codes;
  Scratch own;

  explicit RankSpace(int64_t n) {
    const int64_t room = n + 2 * kGroup,
                  bytes = 2 * n * int64_t(sizeof(Ranked<C>)) + room * int64_t(sizeof(C));
    char* const memory =
        n <= kKept ? reinterpret_cast<char*>(scratch<Ranked<C>>(bytes / int64_t(sizeof(Ranked<C>)) + 1))
                   : static_cast<char*>(own.get(size_t(bytes)));
    items = reinterpret_cast<Ranked<C>*>(memory);
    codes = reinterpret_cast<bits_t<C>*>(items + 2 * n);
  }
};

// DELLA in one row: each element's factor, 0 for those that go. index: of the row's first element.
template <class T, class C = compute_t<T>>
void della_factors(const TensorMask<C>& mask, const T* x, const T* base, int64_t index, int64_t n,
                   C* factors) {
  if (n == 0) return;
  const RankSpace<C> space(n);
  Group<T>{x, base, nullptr, n}.fill(space.codes, 0, n);
  const Ranked<C>* const sorted = sort_by_rank<C>(space.codes, n, space.items);
  const uint32_t* const draws =
      random_draws(mask.stream, uint64_t(index), n, reinterpret_cast<uint32_t*>(space.codes));
  const auto* const below = mask.template table<int64_t>(kBelow);
  const auto* const factor = mask.template table<C>(kFactor);
  for (int64_t rank = 0; rank < n; ++rank) {
    const uint32_t place = sorted[rank].place;
    const bits_t<C> kept = 0 - bits_t<C>(int64_t(draws[place]) < below[rank]);  // without a branch
    factors[place] = bit_cast<C>(bit_cast<bits_t<C>>(factor[rank]) & kept);
  }
}

}  // namespace PYDELTA_NAMESPACE
