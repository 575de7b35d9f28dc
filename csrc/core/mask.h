// Masks as kernels read them, and the one order of magnitudes: larger first, among equals the lower index.
#pragma once
#include "types.h"

namespace PYDELTA_NAMESPACE {

// The codes that Python passes: MASKS and ELECTIONS in pydelta/core/codes.py.
enum class MaskKind : int { none = 0, random = 1, della = 2, tensor_cuts = 3, row_cuts = 4 };
enum class Election : int { sum = 0, ties = 1, ties_unweighted = 2 };

// What a mask's five tables are.
enum DellaTable { kBelow = 0, kFactor = 1, kRanks = 2 };
enum CutTable { kLow = 0, kLowIndex = 1, kHigh = 2, kHighIndex = 3, kColumnNorm = 4 };

// A sum of agreeing weights below this in size divides nothing.
constexpr double kLeastDivisor = 1e-8;

// A magnitude as an integer in the same order; at least 0 as a signed one too.
template <class C>
PYDELTA_HD bits_t<C> code_of(C value) {
  return bit_cast<bits_t<C>>(value) & (~bits_t<C>(0) >> 1);
}

// The element at `index` lies before the cut (magnitude, cut_index) iff its code is at least this.
template <class C>
PYDELTA_HD bits_t<C> least_before(C magnitude, int64_t cut_index, int64_t index) {
  return code_of(magnitude) + bits_t<C>(index >= cut_index);
}

}  // namespace PYDELTA_NAMESPACE
