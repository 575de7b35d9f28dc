// Order statistics of a group that no cache holds. A sample says in what band of codes a rank most likely
// lies; one pass counts what lies above the band and collects what lies inside it. Where the sample misleads,
// the counts say so, and the next band is chosen within what they leave: the result is exact always.
#pragma once
#include <atomic>
#include <cmath>
#include <memory>
#include <vector>

#include "select.h"

namespace PYDELTA_NAMESPACE {

// Elements that are counted together.
constexpr int64_t kChunk = int64_t(1) << 16;
// At most this many elements are looked at to choose a band, one in kSampled or fewer.
constexpr int64_t kSample = int64_t(1) << 16, kSampled = 256;

// The last element of a rank: its code, and its index in the group.
template <class C>
struct Found {
  bits_t<C> code;
  int64_t index;
};

// What is counted for a band in a chunk. Codes strictly inside it are collected.
template <class C>
struct Count {
  int64_t above, from_high, inside, from_low;
  std::unique_ptr<bits_t<C>[]> codes;
  int64_t equal(bits_t<C> code, bits_t<C> low, bits_t<C> high) const {
    if (code == high) return from_high - above;
    if (code == low) return from_low - inside - from_high;
    int64_t count = 0;
    for (int64_t i = 0; i < inside; ++i) count += codes[size_t(i)] == code;
    return count;
  }
};

// The search for one rank: what is known of its code, and where to look next.
template <class C>
struct Search {
  using U = bits_t<C>;
  int64_t rank;                    // 1: the largest
  U least = 0, most = ~U(0) >> 1;  // the code lies between them
  U low = 0, high = ~U(0) >> 1;    // the next band
  double deviations = 4;           // how wide the sample's band is
  bool found = false;
  U code = 0;
  int64_t which = 0;             // of the elements with that code, by index; from 1
  std::vector<Count<C>> counts;  // by chunk

  // A band from a sorted-out sample of so many codes; the group has `size`.
  void aim(const U* sample, int64_t sampled, int64_t size) {
    const double part = double(rank) / double(size), expected = part * double(sampled),
                 wide = deviations * (std::sqrt(expected * (1 - part)) + 1);
    const auto first = int64_t(expected - wide), last = int64_t(expected + wide) + 1;
    high = first < 1 ? most : code_of_rank<C>(sample, sampled, first, 0, ~U(0) >> 1);
    low = last > sampled ? least : code_of_rank<C>(sample, sampled, last, 0, high);
    high = high < most ? high : most;
    low = low > least ? low : least;
    if (low > high) {
      low = least;
      high = most;
    }
  }

  // What the counts of a pass say; all: every code inside the band was collected.
  void conclude(bool all, const U* sample, int64_t sampled, int64_t size) {
    int64_t above = 0, from_high = 0, inside = 0, from_low = 0;
    for (const Count<C>& c : counts) {
      above += c.above;
      from_high += c.from_high;
      inside += c.inside;
      from_low += c.from_low;
    }
    if (rank > above && rank <= from_high) {
      settle(high, rank - above);
    } else if (rank > from_high + inside && rank <= from_low) {
      settle(low, rank - from_high - inside);
    } else if (rank > from_high && rank <= from_low) {
      if (all) return select(rank - from_high, inside);
      least = low + 1;
      most = high - 1;
      low = high = least + (most - least) / 2;
    } else {
      (rank <= above ? least : most) = rank <= above ? high + 1 : low - 1;
      deviations *= 4;
      aim(sample, sampled, size);
    }
  }

  void settle(U value, int64_t number) {
    code = value;
    which = number;
    found = true;
  }

  // Rank `number` among the `inside` codes that were collected.
  void select(int64_t number, int64_t inside) {
    const std::unique_ptr<U[]> all(new U[size_t(inside + kRun<C>)]);
    int64_t n = 0;
    for (const Count<C>& c : counts) {
      memcpy(all.get() + n, c.codes.get(), size_t(c.inside) * sizeof(U));
      n += c.inside;
    }
    pad_codes<C>(all.get(), n);
    const U value = code_of_rank<C>(all.get(), n, number, low + 1, high - 1);
    settle(value, number - codes_at_least<C>(all.get(), n, value + 1));
  }
};

// A band of codes, as vectors.
template <class C>
struct Band {
  VecBits<C> low, high, above{}, from_high{}, from_low{};
  bits_t<C>* end = nullptr;  // of the codes inside it

  Band() = default;
  Band(const Search<C>& search, bits_t<C>* codes)
      : low(VecBits<C>{} + search.low), high(VecBits<C>{} + search.high), end(codes) {}
  PYDELTA_INLINE void add(VecBits<C> code) {
    above = count_at_least<C>(above, code, high + 1);
    from_high = count_at_least<C>(from_high, code, high);
    from_low = count_at_least<C>(from_low, code, low);
    end = append_between<C>(end, code, low, high);
  }
};

template <class T, int bands, class C = compute_t<T>>
[[gnu::noinline]] void count_chunk(Group<T> group, int64_t begin, int64_t length, Band<C> (&band)[bands]) {
  constexpr Order order = order_of<T>;
  constexpr int64_t places = 2 * kLanes<C>;
  Band<C> mine[bands];
  for (int b = 0; b < bands; ++b) mine[b] = band[b];
  int64_t j = begin;
  for (; j + places <= begin + length; j += places) {
    const Pair<C> v = group.template sizes<order>(j, places);
    const VecBits<C> first = codes_of<C>(v.a), second = codes_of<C>(v.b);
#pragma GCC unroll 2
    for (int b = 0; b < bands; ++b) {
      mine[b].add(first);
      mine[b].add(second);
    }
  }
  if (j < begin + length) {
    bits_t<C> codes[places];
    store_codes<C>(group.template sizes<Order::halves>(j, begin + length - j), codes);
    for (int64_t i = begin + length - j; i < places; ++i) codes[i] = kNoCode<C>;
    for (int b = 0; b < bands; ++b) {
      for (int64_t i = 0; i < places; i += kLanes<C>) {
        VecBits<C> code;
        memcpy(&code, codes + i, sizeof(code));
        mine[b].add(code);
      }
    }
  }
  for (int b = 0; b < bands; ++b) band[b] = mine[b];
}

// One pass over the group for one or two searches; false if too many codes lay inside a band to be kept.
template <class T, int bands, class C = compute_t<T>>
bool count_group(Group<T> group, Search<C>* const (&searches)[bands], int threads) {
  using U = bits_t<C>;
  const int64_t chunks = ceil_div(group.size, kChunk), bytes = (group.base ? 2 : 1) * int64_t(sizeof(T));
  const int64_t room = kChunk + kRun<C>, most = group.size / 8;
  for (Search<C>* s : searches) s->counts = std::vector<Count<C>>(size_t(chunks));
  std::atomic<int64_t> kept{0};
  parallel_for(chunks, kChunk * bytes, threads, [&](int64_t chunk) {
    const int64_t begin = chunk * kChunk;
    U* const codes = scratch<U>(bands * room);
    Band<C> band[bands];
    for (int b = 0; b < bands; ++b) {
      band[b] = Band<C>(*searches[b], codes + b * room);
    }
    count_chunk<T, bands>(group, begin, least(kChunk, group.size - begin), band);
    for (int b = 0; b < bands; ++b) {
      const int64_t inside = band[b].end - (codes + b * room);
      Count<C>& count = searches[b]->counts[size_t(chunk)];
      count.above = sum_lanes<C>(band[b].above);
      count.from_high = sum_lanes<C>(band[b].from_high);
      count.inside = inside;
      count.from_low = sum_lanes<C>(band[b].from_low);
      if ((kept += inside) > most) continue;
      count.codes.reset(new U[size_t(inside)]);
      memcpy(count.codes.get(), codes + b * room, size_t(inside) * sizeof(U));
    }
  });
  return kept <= most;
}

// Codes of elements spread over the group: one from each of equal stretches, at a place that a hash chooses.
template <class T, class C = compute_t<T>>
std::vector<bits_t<C>> sample_of(Group<T> group) {
  const int64_t sampled = least(kSample, group.size / kSampled), stretch = group.size / sampled;
  std::vector<bits_t<C>> codes(size_t(sampled + kRun<C>));
  for (int64_t i = 0; i < sampled; ++i) {
    const uint64_t hash = (uint64_t(i) + 1) * 0x9E3779B97F4A7C15u;
    const int64_t j = i * stretch + int64_t((hash >> 32) * uint64_t(stretch) >> 32);
    codes[size_t(i)] = codes_of<C>(
        group.template sizes<order_of<T>>(least(j, group.size - 2 * kLanes<C>), 2 * kLanes<C>).a)[0];
  }
  pad_codes<C>(codes.data(), sampled);
  return codes;
}

// The index of a settled search's element.
template <class T, class C = compute_t<T>>
int64_t index_of(Group<T> group, const Search<C>& search) {
  int64_t which = search.which, chunk = 0;
  for (;; ++chunk) {
    const int64_t equal = search.counts[size_t(chunk)].equal(search.code, search.low, search.high);
    if (which <= equal) break;
    which -= equal;
  }
  bits_t<C>* const codes = scratch<bits_t<C>>(kChunk + kRun<C>);
  group.fill(codes, chunk * kChunk, least(kChunk, group.size - chunk * kChunk));
  return chunk * kChunk + place_of(codes, search.code, which);
}

// The elements of some ranks of a large group.
template <class T, class C = compute_t<T>>
void find_large(Group<T> group, const int64_t* ranks, Found<C>* found, int count, int threads) {
  const auto sample = sample_of(group);
  const int64_t sampled = int64_t(sample.size()) - kRun<C>;
  Search<C> searches[2];
  for (int i = 0; i < count; ++i) {
    searches[i].rank = ranks[i];
    searches[i].aim(sample.data(), sampled, group.size);
  }
  for (;;) {
    Search<C>* open[2];
    int left = 0;
    for (int i = 0; i < count; ++i) {
      if (!searches[i].found) open[left++] = &searches[i];
    }
    if (left == 0) break;
    Search<C>* const first[1] = {open[0]};
    const bool all =
        left == 2 ? count_group<T, 2>(group, open, threads) : count_group<T, 1>(group, first, threads);
    for (int i = 0; i < left; ++i) open[i]->conclude(all, sample.data(), sampled, group.size);
  }
  for (int i = 0; i < count; ++i) found[i] = {searches[i].code, index_of(group, searches[i])};
}

}  // namespace PYDELTA_NAMESPACE
