// The transforms of a superposition, and the size of a Hadamard block.
#pragma once
#include "types.h"

namespace PYDELTA_NAMESPACE {

// The codes that Python passes: TRANSFORMS in pydelta/core/codes.py.
enum class Transform : int { none = 0, sign = 1, hadamard = 2 };

constexpr int64_t kMaxDefaultBlock = 32768;

// The largest power of two that divides n, capped; 1 for n = 0.
PYDELTA_HD int64_t default_block(int64_t n) {
  const int64_t block = n & -n;
  return n == 0 ? 1 : block < kMaxDefaultBlock ? block : kMaxDefaultBlock;
}

}  // namespace PYDELTA_NAMESPACE
