// The walk that the ops share: tile by tile, load -> flip -> [transform] -> flip -> emit.
//
// An op says how a vector of elements is loaded and how transformed ones are stored; everything about
// shapes, signs, threads and the ends of rows is here.
#pragma once
#include "../core/transform.h"
#include "fwht.h"
#include "parallel.h"
#include "signs.h"

namespace PYDELTA_NAMESPACE {

// Blocks up to here are transformed in scratch memory that L2 holds.
constexpr int64_t kMaxTileBlock = 65536;
// Vectors side by side where the axis is not the last one.
constexpr int kColumnLog = 2;

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

template <class C>
struct Pair {
  Vec<C> a, b;
};

// What dtypes go with one another: fp64 only with itself.
template <class C, class Body>
void visit_of(int dtype, const Body& body) {
  visit(dtype, [&](auto t) {
    if constexpr (sizeof(compute_t<decltype(t)>) == sizeof(C)) body(t);
  });
}

template <class T, class C = compute_t<T>>
PYDELTA_INLINE inline Vec<C> load_upto(const T* p, int64_t count) {
  if (count >= kLanes<C>) return load(p);
  return count > 0 ? load_part<T, C>(p, int(count)) : Vec<C>{};
}

template <class T, class C = compute_t<T>>
PYDELTA_INLINE inline Pair<C> load2_upto(const T* p, int64_t count) {
  return {load_upto(p, count), load_upto(p + kLanes<C>, count - kLanes<C>)};
}

// around: past the cache, where p allows it.
template <class T, class C = compute_t<T>>
PYDELTA_INLINE inline void store2_upto(T* p, Vec<C> a, Vec<C> b, int64_t count, bool around) {
  if (count >= 2 * kLanes<C>) return store2<T, C>(p, a, b, around);
  const int64_t second = count - kLanes<C>;
  if (count > 0) store_part<T, C>(p, a, int(second < 0 ? count : kLanes<C>));
  if (second > 0) store_part<T, C>(p + kLanes<C>, b, int(second));
}

// Whether a result is written around the cache: it is large, no input, and its rows are aligned.
template <class T>
inline bool writes_around(const T* out, Axis axis, const void* input) {
  const int64_t row = axis.inner > 1 ? axis.inner : axis.n, elements = axis.outer * axis.n * axis.inner;
  return static_cast<const void*>(out) != input && elements * int64_t(sizeof(T)) >= kAroundBytes &&
         reinterpret_cast<uintptr_t>(out) % kVectorBytes == 0 && row * int64_t(sizeof(T)) % kVectorBytes == 0;
}

// Where a vector lies: its first element, that element's place on the axis, how many elements are left there.
struct Spot {
  int64_t offset, j, left;
};

// rows: along the axis, whole vectors. ragged: along the axis, any length. uniform: across the axis, one place
// of it. columns: kColumnLog vectors side by side across the axis, for each of a block's places.
enum class Layout { rows, ragged, uniform, columns };

template <class C, Layout layout>
struct Tile {
  static constexpr bool along = layout == Layout::rows || layout == Layout::ragged;
  int64_t offset, j, vectors, length, stride;

  PYDELTA_INLINE Spot spot(int64_t i) const {
    constexpr int lanes = kLanes<C>;
    if constexpr (layout == Layout::rows) return {offset + i * lanes, j + i * lanes, 2 * lanes};
    if constexpr (layout == Layout::ragged) return {offset + i * lanes, j + i * lanes, length - i * lanes};
    if constexpr (layout == Layout::uniform) return {offset + i * lanes, j, length - i * lanes};
    const int64_t row = i >> kColumnLog, column = (i & ((1 << kColumnLog) - 1)) * lanes;
    return {offset + row * stride + column, j + row, length - column};
  }
  // Elements of scratch memory for all vectors, and one more that a pair at a ragged end may touch.
  int64_t room() const { return (vectors + 1) * kLanes<C>; }
  // The signs of the two vectors from `spot` on, in the low bits.
  PYDELTA_INLINE static uint32_t minus(SignView signs, Spot spot) {
    return along ? signs.from(spot.j) : signs.all(spot.j);
  }
  // body(i, spot) for every second vector: what follows may lie beyond a ragged end.
  template <class Body>
  PYDELTA_INLINE void pairs(const Body& body) const {
    for (int64_t i = 0; i < vectors; i += 2) body(i, spot(i));
  }
};

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// body(tile) for consecutive pieces of every row of `length` elements.
template <class C, Layout layout, class Body>
void for_rows(int64_t rows, int64_t length, int64_t piece, int64_t modulus, int64_t bytes, int threads,
              const Body& body) {
  const int64_t pieces = ceil_div(length, piece);
  parallel_for(rows * pieces, least(piece, length) * bytes, threads, [&](int64_t i) {
    const int64_t row = i / pieces, start = i % pieces * piece, count = least(piece, length - start);
    const int64_t j = layout == Layout::uniform ? row % modulus : start;
    body(Tile<C, layout>{row * length + start, j, ceil_div(count, kLanes<C>), count, 0});
  });
}

template <class C, class Body>
void for_columns(Axis axis, int64_t block, int64_t bytes, int threads, const Body& body) {
  constexpr int64_t width = int64_t(kLanes<C>) << kColumnLog;
  const int64_t strips = ceil_div(axis.inner, width), blocks = axis.n / block;
  parallel_for(axis.outer * blocks * strips, block * width * bytes, threads, [&](int64_t i) {
    const int64_t strip = i % strips, b = i / strips % blocks, slice = i / strips / blocks, start = strip * width;
    const int64_t offset = (slice * axis.n + b * block) * axis.inner + start;
    body(Tile<C, Layout::columns>{offset, b * block, block << kColumnLog, least(width, axis.inner - start),
                                  axis.inner});
  });
}

template <class C, class Body>
void for_last_axis(Axis axis, int64_t block, int64_t bytes, int threads, const Body& body) {
  const int64_t together = rows_per_tile(axis), piece = together > 1 ? together * axis.n : block > kTile ? block : kTile;
  if (together > 1) axis = {1, axis.outer * axis.n, 1};
  const bool whole_vectors = block == 1 || block >= kLanes<C>;
  if (whole_vectors && axis.n % (2 * kLanes<C>) == 0) {
    return for_rows<C, Layout::rows>(axis.outer, axis.n, piece, 1, bytes, threads, body);
  }
  for_rows<C, Layout::ragged>(axis.outer, axis.n, piece, 1, bytes, threads, body);
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
  for_columns<C>(axis, block, bytes, threads, body);
}

inline int log2_of(int64_t power) { return __builtin_ctzll(uint64_t(power)); }

// The plain +-1 transform of a tile's blocks into `work`; source(spot) gives the signed input vectors. It stays
// a function of its own, so that there is one per kind of source and not one per combination of dtypes.
template <class C, Layout layout, class Source>
__attribute__((noinline)) void transform(Tile<C, layout> tile, int64_t block, C* work, Source source) {
  const int log = log2_of(block), lane_log = least(log, kLaneLog<C>);
  const auto read = [tile, source](int64_t i) PYDELTA_INLINE { return source(tile.spot(i)); };
  if constexpr (layout == Layout::columns) {
    return fwht<C, kColumnLog>(tile.vectors, log, work, read);
  }
  if (log >= kLaneLog<C>) {
    const auto stages = [read](int64_t i) PYDELTA_INLINE { return lane_stages<C>(read(i), kLaneLog<C>); };
    return fwht<C, 0>(tile.vectors, log - kLaneLog<C>, work, stages);
  }
  for (int64_t i = 0; i < tile.vectors; ++i) {
    write(work + i * kLanes<C>, lane_stages<C>(read(i), lane_log), false);
  }
}

// Where transform() reads from: x, with signs.
template <class T, class TileType, class C = compute_t<T>>
struct SignedSource {
  const T* x;
  SignView signs;
  PYDELTA_INLINE Vec<C> operator()(Spot spot) const {
    prefetch(x + spot.offset + kTile);
    return flip<C>(load_upto(x + spot.offset, spot.left), TileType::minus(signs, spot));
  }
};

// Two transformed vectors, scaled and signed: the signs of `a` are the low bits, those of `b` follow.
template <class C>
PYDELTA_INLINE inline Pair<C> scaled_pair(const C* work, C scale, uint32_t minus) {
  const Vec<C> factor = broadcast(scale);
  return {flip<C>(load(work) * factor, minus), flip<C>(load(work + kLanes<C>) * factor, minus >> kLanes<C>)};
}

}  // namespace PYDELTA_NAMESPACE
