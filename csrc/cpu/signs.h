// The random signs of one key along an axis, packed 32 to a word.
#pragma once
#include <cmath>
#include <cstdlib>
#include <new>

#include "../core/philox.h"
#include "../core/transform.h"
#include "simd.h"

namespace PYDELTA_NAMESPACE {

class Signs {
 public:
  Signs() = default;
  // Signs first .. first + n - 1 of `key`; `first` is a multiple of 128.
  Signs(Key key, uint64_t first, int64_t n) {
    const int64_t blocks = (n + 127) / 128;
    words_ = static_cast<uint32_t*>(std::malloc(size_t(blocks + 1) * sizeof(Words4)));
    if (words_ == nullptr) throw std::bad_alloc();
    for (int64_t b = 0; b < blocks; b += kBlocks) {  // several at once: the compiler makes vectors of it
      Words4 words[kBlocks];
      for (int i = 0; i < kBlocks; ++i) words[i] = philox4x32(key, first / 128 + uint64_t(b + i));
      const int64_t wanted = blocks - b < kBlocks ? blocks - b : kBlocks;
      memcpy(words_ + 4 * b, words, size_t(wanted) * sizeof(Words4));
    }
  }
  Signs(const Signs&) = delete;
  Signs& operator=(const Signs&) = delete;
  Signs(Signs&& other) noexcept : words_(other.words_) { other.words_ = nullptr; }
  Signs& operator=(Signs&& other) noexcept {
    uint32_t* mine = words_;
    words_ = other.words_;
    other.words_ = mine;
    return *this;
  }
  ~Signs() { std::free(words_); }

  // The signs of elements j, j + 1, ... of the axis in the low bits, up to the end of j's word.
  uint32_t from(int64_t j) const { return words_ == nullptr ? 0 : words_[j / 32] >> (j % 32); }
  // All ones if element j has a minus.
  uint32_t all(int64_t j) const { return from(j) & 1 ? ~0u : 0u; }

 private:
  static constexpr int kBlocks = kLanes<float>;
  uint32_t* words_ = nullptr;
};

// What a transform does beside the butterflies: signs before (inner) and after (outer), and the scale that
// makes blocks orthonormal. D H D' or its inverse D' H D; "sign" has inner signs alone, "none" nothing.
struct Rotation {
  Signs inner, outer;
  double scale = 1;

  Rotation() = default;
  Rotation(Key key, int64_t n, Transform transform, int64_t block, bool inverse)
      : scale(1 / std::sqrt(double(block))) {
    if (transform == Transform::none) return;
    const bool both = transform == Transform::hadamard;
    inner = Signs(key, both && inverse ? kOuterSigns : 0, n);
    if (both) outer = Signs(key, inverse ? 0 : kOuterSigns, n);
  }
};

}  // namespace PYDELTA_NAMESPACE
