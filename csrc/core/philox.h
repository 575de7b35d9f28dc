// Philox4x32-10 (Salmon et al., 2011) as a pure function of (seed, stream, block).
#pragma once
#include "arguments.h"
#include "types.h"

namespace PYDELTA_NAMESPACE {

using pydelta_arguments::Key;

struct Words4 {
  uint32_t w[4];
};

constexpr uint32_t kPhiloxM0 = 0xD2511F53u;
constexpr uint32_t kPhiloxM1 = 0xCD9E8D57u;
constexpr uint32_t kPhiloxW0 = 0x9E3779B9u;
constexpr uint32_t kPhiloxW1 = 0xBB67AE85u;
constexpr int kPhiloxRounds = 10;

// Counter (block low, block high, stream low, stream high), key (seed low, seed high).
PYDELTA_HD Words4 philox4x32(Key key, uint64_t block) {
  uint32_t c0 = uint32_t(block), c1 = uint32_t(block >> 32);
  uint32_t c2 = uint32_t(key.stream), c3 = uint32_t(key.stream >> 32);
  uint32_t k0 = uint32_t(key.seed), k1 = uint32_t(key.seed >> 32);
#pragma unroll
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const uint64_t p0 = uint64_t(kPhiloxM0) * c0, p1 = uint64_t(kPhiloxM1) * c2;
    c0 = uint32_t(p1 >> 32) ^ c1 ^ k0;
    c1 = uint32_t(p1);
    c2 = uint32_t(p0 >> 32) ^ c3 ^ k1;
    c3 = uint32_t(p0);
    k0 += kPhiloxW0;
    k1 += kPhiloxW1;
  }
  return {{c0, c1, c2, c3}};
}

// D of `rotate` takes its signs from here on, D' from 0.
constexpr uint64_t kOuterSigns = uint64_t(1) << 40;

// Signs 32 w .. 32 w + 31 of a key: bit i is sign 32 w + i, 1 means minus.
PYDELTA_HD uint32_t sign_word(Key key, uint64_t w) { return philox4x32(key, w / 4).w[w % 4]; }

}  // namespace PYDELTA_NAMESPACE
