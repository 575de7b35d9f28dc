// What the bindings hand to the kernels of both devices. Plain, and in a namespace of its own: the functions
// are compiled for each instruction set apart, these are the same for all.
#pragma once
#include <cstdint>

namespace pydelta_arguments {

// A stream of random numbers: see philox.h.
struct Key {
  uint64_t seed, stream;
};

// A tensor seen from its input axis: `outer` slices of n rows of `inner` contiguous elements.
struct Axis {
  int64_t outer, n, inner;
};

// What stays of a delta. Its kind is a code of mask.h, which also says what the tables are; null where
// absent.
struct Mask {
  int kind;
  Key key;
  uint64_t below;  // random: a draw below it stays
  double factor;   // random: of what stays
  const void* tables[5];
};

// A tensor of rows x n in so many bits an element; `group` elements share a scale. Each row's codes fill
// whole bytes. levels: the positive ones; thresholds: between them.
struct Codes {
  uint8_t* codes;
  float* scales;
  int64_t rows, n, group;
  int bits;
  const float* levels;
  const float* thresholds;
};

}  // namespace pydelta_arguments
