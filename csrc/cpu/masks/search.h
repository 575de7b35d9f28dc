// Order statistics of a group that no cache holds. A sample says in what band of codes a rank most likely
// lies; one pass counts what lies above the band and collects what lies inside it. Where the sample misleads,
// the counts say so, and the next band is chosen within what they leave: the result is exact always.
#pragma once
#include <atomic>
#include <memory>
#include <vector>

#include "select.h"

namespace PYDELTA_NAMESPACE {

// At most so many elements are looked at to choose a band, one in kSampled or fewer.
constexpr int64_t kSample = int64_t(1) << 14, kSampled = 64;

// The last element of a rank: its code, and its index in the group.
template <class C>
struct Found {
  bits_t<C> code;
  int64_t index;
};

// What is counted for a band in a chunk: codes above it and inside it. The latter are kept if they differ.
template <class C>
struct Count {
  int64_t above, inside;
  std::unique_ptr<bits_t<C>[]> codes;

  int64_t equal(bits_t<C> code) const {
    if (!codes) return inside;
    int64_t count = 0;
    for (int64_t i = 0; i < inside; ++i) count += codes[size_t(i)] == code;
    return count;
  }
};

// The search for one rank: what is known of its code, and the band to look at next.
template <class C>
struct Search {
  using U = bits_t<C>;
  int64_t rank;                    // 1: the largest
  U least = 0, most = ~U(0) >> 1;  // the code lies between them
  U low = 0, high = 0;             // the band, both ends in it
  double deviations = 4;           // how wide the sample's band is
  bool found = false;
  U code = 0;
  int64_t which = 0;             // of the elements with that code, by index; from 1
  std::vector<Count<C>> counts;  // by chunk

  // Chooses a band by a sample of a group of `size`: the codes around the rank. If one of them is so frequent
  // that there would be many more, it is looked at alone.
  void aim(const U* sample, int64_t sampled, int64_t size) {
    const Interval<C> band = likely<C>(sample, sampled, rank, size, deviations);
    high = band.high < most ? band.high : most;
    low = band.low > least ? band.low : least;
    if (low > high) {
      low = least;
      high = most;
    }
    const int64_t from_low = codes_above<C>(sample, sampled, low - 1),
                  above_low = codes_above<C>(sample, sampled, low),
                  from_high = codes_above<C>(sample, sampled, high - 1),
                  above_high = codes_above<C>(sample, sampled, high);
    const double share = double(rank) / double(size),
                 spread = std::sqrt(double(sampled) * share * (1 - share)) + 1;
    if (double(from_low - above_high) <= 4 * deviations * spread) return;
    if (from_low - above_low > from_high - above_high) {
      high = low;
    } else {
      low = high;
    }
  }

  // What the counts of a pass say. complete: all codes inside the band were kept.
  void conclude(bool complete, const U* sample, int64_t sampled, int64_t size) {
    int64_t above = 0, inside = 0;
    for (const Count<C>& c : counts) {
      above += c.above;
      inside += c.inside;
    }
    if (rank > above && rank <= above + inside) {
      if (low == high) return settle(low, rank - above);
      if (complete) return select(rank - above, inside);
      least = low;
      most = high;
      low = high = least + (most - least) / 2;
    } else {
      (rank <= above ? least : most) = rank <= above ? high + 1 : low - 1;
      if (low < high) deviations *= 4;
      aim(sample, sampled, size);
    }
  }

  void settle(U value, int64_t number) {
    code = value;
    which = number;
    found = true;
  }

  // Rank `number` among the codes inside the band.
  void select(int64_t number, int64_t inside) {
    const int64_t room = inside + kRun<C>;
    const std::unique_ptr<U[]> all(new U[size_t(2 * room)]);
    int64_t n = 0;
    for (const Count<C>& c : counts) {
      memcpy(all.get() + n, c.codes.get(), size_t(c.inside) * sizeof(U));
      n += c.inside;
    }
    pad_codes<C>(all.get(), n);
    const U value = code_of_rank<C>(all.get(), n, number, all.get() + room);
    settle(value, number - codes_above<C>(all.get(), n, value));
  }
};

// A band in the loop over a chunk.
template <class C>
struct Band {
  VecBits<C> low, high, above{};
  bits_t<C>* end = nullptr;  // of the codes inside it
  bool keep = false;

  Band() = default;
  Band(const Search<C>& search, bits_t<C>* codes)
      : low(VecBits<C>{} + search.low),
        high(VecBits<C>{} + search.high),
        end(codes),
        keep(search.low < search.high) {}

  PYDELTA_INLINE void add(VecBits<C> code) {
    above = count_above<C>(above, code, high);
    end = append_between<C>(end, code, low, high, keep);
  }
};

template <Form form, class T, int bands, class C = compute_t<T>>
[[gnu::noinline]] void count_chunk(Group<T> group, int64_t begin, int64_t length, Band<C> (&band)[bands]) {
  constexpr Order order = order_of<T>;
  constexpr int64_t places = 2 * kLanes<C>;
  Band<C> mine[bands];
  for (int b = 0; b < bands; ++b) mine[b] = band[b];
  int64_t j = 0;
  for (; j + places <= length; j += places) {
    const Pair<C> v = group.template sizes<order, form>(begin + j, places);
    const VecBits<C> first = codes_of<C>(v.a), second = codes_of<C>(v.b);
#pragma GCC unroll 2
    for (int b = 0; b < bands; ++b) {
      mine[b].add(first);
      mine[b].add(second);
    }
  }
  if (j < length) {
    bits_t<C> codes[kRun<C>];
    group.fill(codes, begin + j, length - j);
    for (int i = 0; i < 2 * kLanes<C>; i += kLanes<C>) {
      VecBits<C> code;
      memcpy(&code, codes + i, sizeof(code));
      for (int b = 0; b < bands; ++b) mine[b].add(code);
    }
  }
  for (int b = 0; b < bands; ++b) band[b] = mine[b];
}

// One pass over the group for one or two searches; false if too many codes lay inside a band to be kept.
template <class T, int bands, class C = compute_t<T>>
bool count_group(Group<T> group, Search<C>* const (&searches)[bands], int threads) {
  using U = bits_t<C>;
  const int64_t chunks = ceil_div(group.size, kChunk), bytes = (group.base ? 2 : 1) * int64_t(sizeof(T));
  const int64_t room = kChunk + kRun<C>, most = least(group.size / 4, int64_t(1) << 31);
  for (Search<C>* s : searches) s->counts = std::vector<Count<C>>(size_t(chunks));
  std::atomic<int64_t> kept{0};
  parallel_for(chunks, kChunk * bytes, threads, [&](int64_t chunk) {
    const int64_t begin = chunk * kChunk;
    U* const codes = scratch<U>(bands * room);
    Band<C> band[bands];
    for (int b = 0; b < bands; ++b) band[b] = Band<C>(*searches[b], codes + b * room);
    const int64_t length = least(kChunk, group.size - begin);
    switch (group.form()) {
      case Form::plain:
        count_chunk<Form::plain>(group, begin, length, band);
        break;
      case Form::delta:
        count_chunk<Form::delta>(group, begin, length, band);
        break;
      case Form::any:
        count_chunk<Form::any>(group, begin, length, band);
    }
    for (int b = 0; b < bands; ++b) {
      Count<C>& count = searches[b]->counts[size_t(chunk)];
      count.above = sum_lanes<C>(band[b].above);
      count.inside = band[b].end - (codes + b * room);
      if (!band[b].keep || (kept += count.inside) > most) continue;
      count.codes.reset(new U[size_t(count.inside)]);
      memcpy(count.codes.get(), codes + b * room, size_t(count.inside) * sizeof(U));
    }
  });
  return kept <= most;
}

// Codes of elements spread over the group: one from each of equal stretches, at a place that a hash chooses.
template <class T, class C = compute_t<T>>
std::vector<bits_t<C>> sample_of(Group<T> group) {
  constexpr int64_t places = 2 * kLanes<C>;
  const int64_t sampled = least(kSample, group.size / kSampled), stretch = group.size / sampled;
  std::vector<bits_t<C>> codes(size_t(sampled + kRun<C>));
  for (int64_t i = 0; i < sampled; ++i) {
    const uint64_t hash = (uint64_t(i) + 1) * 0x9E3779B97F4A7C15u;
    const int64_t j = i * stretch + int64_t((hash >> 32) * uint64_t(stretch) >> 32);
    const Pair<C> v = group.template sizes<order_of<T>>(least(j, group.size - places), places);
    codes[size_t(i)] = codes_of<C>(v.a)[0];
  }
  pad_codes<C>(codes.data(), sampled);
  return codes;
}

// The index of a settled search's element.
template <class T, class C = compute_t<T>>
int64_t index_of(Group<T> group, const Search<C>& search) {
  int64_t which = search.which, chunk = 0;
  for (;; ++chunk) {
    const int64_t equal = search.counts[size_t(chunk)].equal(search.code);
    if (which <= equal) break;
    which -= equal;
  }
  bits_t<C>* const codes = scratch<bits_t<C>>(kChunk + kRun<C>);
  const int64_t length = least(kChunk, group.size - chunk * kChunk);
  group.fill(codes, chunk * kChunk, length);
  return chunk * kChunk + place_of(codes, length, search.code, which);
}

// The elements of one or two ranks of a large group.
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
    Search<C>* const one[1] = {open[0]};
    const bool complete =
        left == 2 ? count_group<T, 2>(group, open, threads) : count_group<T, 1>(group, one, threads);
    for (int i = 0; i < left; ++i) open[i]->conclude(complete, sample.data(), sampled, group.size);
  }
  for (int i = 0; i < count; ++i) found[i] = {searches[i].code, index_of(group, searches[i])};
}

}  // namespace PYDELTA_NAMESPACE
