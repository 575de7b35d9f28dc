#pragma once
#include "cuda_emulator.h"

struct __nv_bfloat162 {
  uint16_t x, y;
};

namespace emulator {

// To nearest, ties to even; a NaN could otherwise be rounded up to an infinity.
inline uint16_t to_bfloat16(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  if (std::isnan(value)) return 0x7fff;
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace emulator

inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) {
  return {emulator::to_bfloat16(x), emulator::to_bfloat16(y)};
}
