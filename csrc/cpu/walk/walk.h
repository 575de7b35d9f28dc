// The walk that the ops share: tile by tile, load -> flip -> [transform] -> flip -> emit.
//
// An op says how a vector of elements is loaded and how transformed ones are stored; everything about
// shapes, signs, threads and the ends of rows is here.
#pragma once
#include "../../core/transform.h"
#include "../random/signs.h"
#include "fwht.h"
#include "parallel.h"

namespace PYDELTA_NAMESPACE {

// Blocks up to here are transformed in scratch memory that L2 holds.
constexpr int64_t kMaxTileBlock = 65536;
// Scratch memory for a strip of columns, where the axis is not the last one.
constexpr int64_t kColumnBytes = 1 << 19;

// The C++ type of a dtype's code, as an argument: visit(code, [&](auto t) { using T = decltype(t); ... }).
template <class Body>
void visit(int dtype, const Body& body) {
  switch (static_cast<Dtype>(dtype)) {
    case Dtype::f32:
      return body(float{});
    case Dtype::bf16:
      return body(bf16{});
    case Dtype::f16:
      return body(f16{});
    case Dtype::f64:
      return body(double{});
  }
}

// What dtypes go with one another: fp64 only with itself.
template <class C, class Body>
void visit_of(int dtype, const Body& body) {
  visit(dtype, [&](auto t) {
    if constexpr (sizeof(compute_t<decltype(t)>) == sizeof(C)) body(t);
  });
}

// Whether a result is written around the cache: it is large, no input, and its rows are aligned.
template <class T>
inline bool writes_around(const T* out, Axis axis, const void* input) {
  const int64_t row = axis.inner > 1 ? axis.inner : axis.n, elements = axis.outer * axis.n * axis.inner;
  return static_cast<const void*>(out) != input && elements * int64_t(sizeof(T)) >= kAroundBytes &&
         reinterpret_cast<uintptr_t>(out) % kVectorBytes == 0 && row * int64_t(sizeof(T)) % kVectorBytes == 0;
}

// Where a vector lies: its first element, by what its signs go (along the axis its number in the tile, across
// it the place on the axis), how many elements are left there.
struct Spot {
  int64_t offset, sign, left;
};

// rows: along the axis, whole vectors. ragged: along the axis, any length. uniform: across the axis, one
// place of it. columns: some vectors side by side across the axis, for each of a block's places.
enum class Layout { rows, ragged, uniform, columns };

template <class C, Layout layout>
struct Tile {
  static constexpr bool along = layout == Layout::rows || layout == Layout::ragged;
  int64_t offset, j, vectors, length, stride;
  int width;  // columns: log2 of the vectors side by side; along rows 0

  PYDELTA_INLINE Spot spot(int64_t i) const {
    constexpr int lanes = kLanes<C>;
    if constexpr (layout == Layout::rows) return {offset + i * lanes, i, 2 * lanes};
    if constexpr (layout == Layout::ragged) return {offset + i * lanes, i, length - i * lanes};
    if constexpr (layout == Layout::uniform) return {offset + i * lanes, j, length - i * lanes};
    const int64_t row = i >> width, column = (i & ((int64_t(1) << width) - 1)) * lanes;
    return {offset + row * stride + column, j + row, length - column};
  }
  // Elements of scratch memory for all vectors, and one more that a pair at a ragged end may touch.
  int64_t room() const { return (vectors + 1) * kLanes<C>; }
  // An axis's signs as minus() takes them.
  template <class View>
  PYDELTA_INLINE View signs(View axis) const {
    return along ? axis.skip(j) : axis;
  }
  // The signs of the two vectors from `spot` on, in the low bits.
  template <class View>
  PYDELTA_INLINE static auto minus(View signs, Spot spot) {
    if constexpr (along) return signs.template from_vector<kLanes<C>>(spot.sign);
    if constexpr (!along) return signs.all(spot.sign);
  }
  // body(i, spot) for every second vector: what follows may lie beyond a ragged end.
  template <class Body>
  PYDELTA_INLINE void pairs(const Body& body) const {
    for (int64_t i = 0; i < vectors; i += 2) body(i, spot(i));
  }
};

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// body(tile) for consecutive pieces of every row of `length` elements. `period`: along the axis, after how
// many elements signs repeat; across it, after how many rows.
template <class C, Layout layout, class Body>
void for_rows(int64_t rows, int64_t length, int64_t piece, int64_t period, int64_t bytes, int threads,
              const Body& body) {
  const int64_t pieces = ceil_div(length, piece);
  parallel_for(rows * pieces, least(piece, length) * bytes, threads, [&](int64_t i) {
    const int64_t row = i / pieces, start = i % pieces * piece, count = least(piece, length - start);
    const int64_t j = (layout == Layout::uniform ? row : start) % period;
    body(Tile<C, layout>{row * length + start, j, ceil_div(count, kLanes<C>), count, 0, 0});
  });
}

// Strips of up to 2^width vectors side by side.
template <class C, class Body>
void for_columns(Axis axis, int64_t block, int width, int64_t bytes, int threads, const Body& body) {
  while (width > 1 && (block << width) * kVectorBytes > kColumnBytes) --width;
  const int64_t across = int64_t(kLanes<C>) << width;
  const int64_t strips = ceil_div(axis.inner, across), blocks = axis.n / block;
  parallel_for(axis.outer * blocks * strips, block * across * bytes, threads, [&](int64_t i) {
    const int64_t strip = i % strips, b = i / strips % blocks, slice = i / strips / blocks,
                  start = strip * across;
    const int64_t offset = (slice * axis.n + b * block) * axis.inner + start;
    const int64_t length = least(across, axis.inner - start);
    body(Tile<C, Layout::columns>{offset, b * block, block << width, length, axis.inner, width});
  });
}

template <class C, class Body>
void for_last_axis(Axis axis, int64_t block, int64_t bytes, int threads, const Body& body) {
  const int64_t together = rows_per_tile(axis);
  int64_t piece = block > kTile ? block : kTile, period = axis.n;
  if (together > 1) {
    piece = period = together * axis.n;
    axis = {1, axis.outer * axis.n, 1};
  }
  if (axis.n % (2 * kLanes<C>) == 0 && (block == 1 || block >= 2 * kLanes<C>)) {
    return for_rows<C, Layout::rows>(axis.outer, axis.n, piece, period, bytes, threads, body);
  }
  for_rows<C, Layout::ragged>(axis.outer, axis.n, piece, period, bytes, threads, body);
}

// body(tile) for tiles that cover the tensor; bytes: memory traffic per element.
template <class C, class Body>
void for_elements(Axis axis, int64_t bytes, int threads, const Body& body) {
  if (axis.outer * axis.n * axis.inner == 0) return;
  if (axis.inner == 1) return for_last_axis<C>(axis, 1, bytes, threads, body);
  const int64_t rows = axis.outer * axis.n;
  for_rows<C, Layout::uniform>(rows, axis.inner, kTile, axis.n, bytes, threads, body);
}

// The same with whole Hadamard blocks in every tile.
template <class C, class Body>
void for_blocks(Axis axis, int64_t block, int64_t bytes, int threads, const Body& body) {
  if (axis.outer * axis.n * axis.inner == 0) return;
  if (axis.inner == 1) return for_last_axis<C>(axis, block, bytes, threads, body);
  for_columns<C>(axis, block, 4, bytes, threads, body);
}

inline int log2_of(int64_t power) { return __builtin_ctzll(uint64_t(power)); }

// What the first pass of a transform reads: a source's vectors, along rows with the stages inside them done.
template <class C, Layout layout, class Source>
struct Reader {
  Tile<C, layout> tile;
  Source source;

  template <bool near>
  PYDELTA_INLINE Vec<C> one(int64_t i) const {
    fetch<near>(i);
    return finish(source.one(tile.spot(i)));
  }
  PYDELTA_INLINE Pair<C> both(int64_t i) const {
    fetch<true>(i);
    const Pair<C> p = source.pair(tile.spot(i));
    if constexpr (layout == Layout::columns) return p;
    return {finish(p.a + p.b), finish(p.a - p.b)};
  }
  template <int s>
  PYDELTA_INLINE Vec<C> half(int64_t i) const {
    if constexpr (s == 0) fetch<true>(i);
    const Pair<C> p = source.pair(tile.spot(i - s));
    if constexpr (layout == Layout::columns) return s ? p.b : p.a;
    return finish(s ? p.a - p.b : p.a + p.b);
  }
  // What comes next arrives in the first-level cache where it has room for it: beside 16-bit elements, or
  // where a transform is one pass without scratch memory (near). Otherwise the next tile arrives in the
  // second-level one.
  template <bool near>
  PYDELTA_INLINE void fetch(int64_t i) const {
    if constexpr (layout == Layout::rows) {
      const auto* const x = source.x + tile.spot(i).offset;
      if constexpr (near || sizeof(*x) == 2) {
        __builtin_prefetch(x + kTile / 2, 0, 3);
      } else {
        __builtin_prefetch(x + kTile, 0, 2);
      }
    }
  }
  PYDELTA_INLINE static Vec<C> finish(Vec<C> v) {
    if constexpr (layout == Layout::columns) return v;
    return lane_stages<C>(v, kLaneLog<C>);
  }
};

// The plain +-1 transform of a tile's blocks. source.one(spot) and source.pair(spot) give signed input
// vectors, store(i, v) takes the result, a Vec by halves and a Pair by parity. It stays a function of its
// own, so that there is one per kind of source and sink and not one per combination of dtypes.
template <Order order, class C, Layout layout, class Source, class Sink>
[[gnu::noinline]] void transform(Tile<C, layout> tile, int64_t block, C* work, Source source, Sink store) {
  constexpr bool parity = order == Order::parity;
  constexpr int side = parity ? 2 : 1, in_lanes = layout == Layout::columns ? 0 : kLaneLog<C> + side - 1;
  const int log = log2_of(block), width = layout == Layout::columns ? tile.width : side - 1;
  if (log >= in_lanes) {
    return fwht<side>(tile.vectors, log - in_lanes, width, work, Reader<C, layout, Source>{tile, source},
                      store);
  }
  for (int64_t i = 0; i < tile.vectors; i += side) {
    if constexpr (parity) {
      Pair<C> p = source.pair(tile.spot(i));
      if (log > 0) p = {p.a + p.b, p.a - p.b};
      store(i, Pair<C>{lane_stages<C>(p.a, log - 1), lane_stages<C>(p.b, log - 1)});
    } else {
      store(i, lane_stages<C>(source.one(tile.spot(i)), log));
    }
  }
}

// Where transform() reads from: x, with signs in the order of its elements.
template <class T, Order order, class TileType, class View, class C = compute_t<T>>
struct SignedSource {
  const T* x;
  View signs;
  PYDELTA_INLINE Vec<C> one(Spot spot) const {
    return flip<C>(load_upto(x + spot.offset, spot.left), TileType::minus(signs, spot));
  }
  PYDELTA_INLINE Pair<C> pair(Spot spot) const {
    return load2_upto<order>(x + spot.offset, spot.left, TileType::minus(signs, spot));
  }
};

// Where transform() writes to if the op goes on from there: memory that a cache holds.
template <class C>
struct WorkSink {
  C* work;
  PYDELTA_INLINE void operator()(int64_t i, Vec<C> v) const { write(work + i * kLanes<C>, v, false); }
  PYDELTA_INLINE void operator()(int64_t i, Pair<C> v) const {
    write(work + i * kLanes<C>, v.a, false);
    write(work + (i + 1) * kLanes<C>, v.b, false);
  }
};

// Two transformed vectors from there, scaled and signed.
template <class C>
PYDELTA_INLINE inline Pair<C> scaled_pair(const C* work, C scale, uint32_t minus) {
  const Vec<C> factor = broadcast(scale);
  return flip<C>(Pair<C>{load(work) * factor, load(work + kLanes<C>) * factor}, minus);
}

}  // namespace PYDELTA_NAMESPACE
