// Random signs in a warp: each lane draws one word of 32, and lends it to the lanes that hold its elements.
#pragma once
#include "../core/philox.h"

namespace PYDELTA_NAMESPACE {

// The sign of column c is sign first + (c / inner) % n of its key.
struct SignAxis {
  int64_t n, inner;
};

// sign_word without an array that is indexed at run time, which would live in slow local memory.
__device__ __forceinline__ uint32_t draw(Key key, uint64_t w) {
  const Words4 p = philox4x32(key, w / 4);
  const uint32_t low = w & 1 ? p.w[1] : p.w[0], high = w & 1 ? p.w[3] : p.w[2];
  return w & 2 ? high : low;
}

// The signs of columns c .. c + 31, first in the lowest bit; `first` is a multiple of 32.
__device__ __forceinline__ uint32_t draw_columns(Key key, uint64_t first, SignAxis axis, int64_t c) {
  const int64_t along = axis.inner == 1 ? c : c / axis.inner;
  int64_t j = along < axis.n ? along : along % axis.n;
  int64_t at = c - along * axis.inner;
  uint32_t word = 0, signs = 0;
  // Most often one word is the answer, and one round enough.
#pragma unroll 1
  for (int filled = 0; filled < 32;) {
    if (filled == 0 || j % 32 == 0) word = draw(key, (first + j) / 32);
    const uint32_t bits = word >> (j % 32);
    // A run is the rest of the word or of the axis, or what is left of the `inner` repeats of one sign.
    const int64_t step = axis.inner == 1 ? min(32 - j % 32, axis.n - j) : 1;
    const int64_t run = axis.inner == 1 ? step : axis.inner - at;
    const uint32_t run_bits = axis.inner == 1 ? bits : bits & 1 ? ~0u : 0u;
    signs = (signs & ((1u << filled) - 1)) | run_bits << filled;
    filled += int(min(run, int64_t(32)));
    j = j + step == axis.n ? 0 : j + step;
    at = 0;
  }
  return signs;
}

}  // namespace PYDELTA_NAMESPACE
