#include "scratch.cuh"
#include "select.cuh"

namespace PYDELTA_NAMESPACE {
namespace {

constexpr int kThreads = Search::kThreads;
constexpr const char* kOp = "magnitude_threshold";

// Groups up to this size, and many groups of any, are each for one block; others are cut up.
constexpr int64_t kBlockSize = 1 << 15, kManyGroups = 1024;

// What is asked, and where the answers go.
struct Request {
  int64_t ranks[kCuts];
  Cuts out[kCuts];
  int levels;

  // Behind the element at `index`, or before all.
  __device__ __forceinline__ void answer(int cut, int64_t group, uint32_t code, int64_t index) const {
    if (threadIdx.x != 0) return;
    out[cut].magnitude[group] = bit_cast<float>(ranks[cut] > 0 ? code : 0x7f800000u);
    out[cut].index[group] = ranks[cut] > 0 ? index + 1 : 0;
  }
};

__device__ __forceinline__ void clear(unsigned* histograms) {
  for (int i = int(threadIdx.x); i < kCuts * kBins; i += kThreads) histograms[i] = 0;
  __syncthreads();
}

// A block goes through its group once for each level, and once more for the last of the equal ones.
template <class T>
__global__ void __launch_bounds__(kThreads, 4)
    select_group(const __grid_constant__ Magnitudes<T> values, const __grid_constant__ Request request) {
  unsigned* const histograms = static_cast<unsigned*>(shared_memory());
  Search& search = *reinterpret_cast<Search*>(histograms + kCuts * kBins);
  for (int64_t group = blockIdx.y; group < values.groups; group += gridDim.y) {
    Cursor cursors[kCuts] = {first_cursor(request.ranks[0]), first_cursor(request.ranks[1])};
#pragma unroll 1
    for (int level = 0; level < request.levels; ++level) {
      clear(histograms);
      values.count(group, level, cursors, histograms);
      __syncthreads();
      search.narrow(level, cursors, histograms);
    }
#pragma unroll 1
    for (int cut = 0; cut < kCuts; ++cut) {
      const uint32_t code = found_code(cursors[cut], request.levels);
      const auto equal = [&](int64_t i) { return uint64_t(values.code_at(group, i) == code); };
      const uint64_t rank = cursors[cut].rank;
      request.answer(cut, group, code, rank > 0 ? search.find(values.size, rank, equal).at : 0);
    }
  }
}

// What launches hand on, for every group: a histogram and a cursor for each cut, and of each tile how many
// elements are equal to what a cursor found.
struct State {
  unsigned long long* histograms;
  Cursor* cursors;
  unsigned* ties;
  int64_t tiles;

  __device__ __forceinline__ void start(const Request& request, int64_t group, int level,
                                        Cursor (&to)[kCuts]) const {
    for (int cut = 0; cut < kCuts; ++cut) {
      to[cut] = level == 0 ? first_cursor(request.ranks[cut]) : cursors[group * kCuts + cut];
    }
  }
};

template <class T>
__global__ void __launch_bounds__(kThreads, 4)
    count_level(const __grid_constant__ Magnitudes<T> values, const __grid_constant__ Request request,
                State state, int level) {
  unsigned* const histograms = static_cast<unsigned*>(shared_memory());
  const int64_t group = blockIdx.y;
  Cursor cursors[kCuts];
  state.start(request, group, level, cursors);
  clear(histograms);
  values.count(group, level, cursors, histograms);
  __syncthreads();
  for (int i = int(threadIdx.x); i < kCuts * kBins; i += kThreads) {
    const unsigned n = histograms[i];
    if (n > 0) atomicAdd(state.histograms + group * kCuts * kBins + i, static_cast<unsigned long long>(n));
  }
}

// Leaves the histograms empty for the next level.
__global__ void __launch_bounds__(kThreads)
    narrow_level(const __grid_constant__ Request request, State state, int level) {
  const int64_t group = blockIdx.y;
  unsigned long long* const histograms = state.histograms + group * kCuts * kBins;
  Cursor cursors[kCuts];
  state.start(request, group, level, cursors);
  static_cast<Search*>(shared_memory())->narrow(level, cursors, histograms);
  for (int i = int(threadIdx.x); i < kCuts * kBins; i += kThreads) histograms[i] = 0;
  if (int(threadIdx.x) < kCuts) state.cursors[group * kCuts + threadIdx.x] = cursors[threadIdx.x];
}

template <class T>
__global__ void __launch_bounds__(kThreads, 4)
    count_ties(const __grid_constant__ Magnitudes<T> values, State state, int levels) {
  const int64_t group = blockIdx.y;
  const Cursor* cursors = state.cursors + group * kCuts;
  const uint32_t low = found_code(cursors[0], levels), high = found_code(cursors[1], levels);
  values.each_tile(group, [&](int64_t tile, const auto& codes) {
    unsigned n[kCuts] = {};
#pragma unroll
    for (const uint32_t code : codes) n[0] += code == low, n[1] += code == high;
    for (int cut = 0; cut < kCuts; ++cut) {
      const unsigned all = __reduce_add_sync(~0u, n[cut]);
      if (lane() == 0 && all > 0) atomicAdd(state.ties + (group * kCuts + cut) * state.tiles + tile, all);
    }
  });
}

// The tile of the last of the equal ones, then its place there.
template <class T>
__global__ void __launch_bounds__(kThreads) find_ties(const __grid_constant__ Magnitudes<T> values,
                                                      const __grid_constant__ Request request, State state) {
  constexpr int64_t kTile = SelectPlan<T>::kTile;
  Search& search = *static_cast<Search*>(shared_memory());
  const int64_t group = blockIdx.y;
  const int cut = int(blockIdx.x);
  const Cursor cursor = state.cursors[group * kCuts + cut];
  const uint32_t code = found_code(cursor, request.levels);
  int64_t index = 0;
  if (cursor.rank > 0) {
    const unsigned* ties = state.ties + (group * kCuts + cut) * state.tiles;
    const auto of_tile = [&](int64_t i) { return uint64_t(ties[i]); };
    const auto [tile, rank] = search.find(state.tiles, cursor.rank, of_tile);
    const int64_t first = tile * kTile, size = min(kTile, values.size - first);
    const auto equal = [&, first = first](int64_t i) {
      return uint64_t(values.code_at(group, first + i) == code);
    };
    index = first + search.find(size, rank, equal).at;
  }
  request.answer(cut, group, code, index);
}

Grid grid(int64_t x, int64_t y, size_t shared) { return {dim3(unsigned(x), unsigned(y)), kThreads, shared}; }

constexpr size_t kHistogramBytes = kCuts * kBins * sizeof(unsigned);

template <class T>
void select_cut_up(const Magnitudes<T>& values, const Request& request, Stream stream) {
  constexpr int64_t kTile = SelectPlan<T>::kTile;
  const int64_t groups = values.groups, tiles = (values.size + kTile - 1) / kTile;
  const size_t histograms = size_t(groups) * kCuts * kBins * sizeof(unsigned long long);
  const size_t cursors = size_t(groups) * kCuts * sizeof(Cursor);
  const size_t ties = size_t(groups * kCuts * tiles) * sizeof(unsigned);
  const Scratch memory(kOp, histograms + cursors + ties, stream);
  check(kOp, cudaMemsetAsync(memory.as<char>(), 0, histograms + cursors + ties,
                             reinterpret_cast<cudaStream_t>(stream)));
  char* const after = memory.as<char>() + histograms;
  const State state{memory.as<unsigned long long>(), reinterpret_cast<Cursor*>(after),
                    reinterpret_cast<unsigned*>(after + cursors), tiles};

  const int64_t processors = attribute(kOp, cudaDevAttrMultiProcessorCount);
  const int64_t blocks = min(tiles, max(processors * 4 / groups, int64_t(1)));
  for (int level = 0; level < request.levels; ++level) {
    start(kOp, count_level<T>, grid(blocks, groups, kHistogramBytes), stream, values, request, state, level);
    start(kOp, narrow_level, grid(1, groups, sizeof(Search)), stream, request, state, level);
  }
  start(kOp, count_ties<T>, grid(blocks, groups, 0), stream, values, state, request.levels);
  start(kOp, find_ties<T>, grid(kCuts, groups, sizeof(Search)), stream, values, request, state);
}

}  // namespace

void magnitude_threshold(const void* x, const void* base, const float* column_norm, Dtype dtype,
                         Groups groups, int64_t low_rank, int64_t high_rank, Cuts low, Cuts high,
                         Stream stream) {
  if (groups.groups == 0) return;
  with_type(dtype, [&](auto type) {
    using T = decltype(type);
    constexpr int V = SelectPlan<T>::V;
    const bool vector = aligned<V>(x, sizeof(T)) && aligned<V>(base, sizeof(T)) && groups.size % V == 0;
    const Magnitudes<T> values{static_cast<const T*>(x),
                               static_cast<const T*>(base),
                               column_norm,
                               groups.groups,
                               groups.size,
                               vector};
    const bool short_codes = sizeof(T) == 2 && base == nullptr && column_norm == nullptr;
    const Request request{{low_rank, high_rank}, {low, high}, short_codes ? 2 : 3};
    if (groups.size > kBlockSize && groups.groups < kManyGroups)
      return select_cut_up(values, request, stream);
    const int64_t rows = min(groups.groups, int64_t(65535));
    start(kOp, select_group<T>, grid(1, rows, kHistogramBytes + sizeof(Search)), stream, values, request);
  });
}

}  // namespace PYDELTA_NAMESPACE
