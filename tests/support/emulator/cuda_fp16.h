#pragma once
#include "cuda_emulator.h"

struct __half {
  uint16_t bits;
};
struct __half2 {
  __half x, y;
};

inline float __half2float(__half half) {
  _Float16 value;
  memcpy(&value, &half, sizeof(value));
  return float(value);
}

inline __half2 __floats2half2_rn(float x, float y) {
  const _Float16 rounded[2] = {_Float16(x), _Float16(y)};
  __half2 both;
  memcpy(&both, rounded, sizeof(both));
  return both;
}
