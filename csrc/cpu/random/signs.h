// The random signs of one key along an axis, packed 32 to a word.
#pragma once
#include <cmath>
#include <cstdlib>
#include <new>

#include "../../core/philox.h"
#include "../../core/transform.h"
#include "../kernels.h"
#include "../simd/simd.h"

namespace PYDELTA_NAMESPACE {

// Elements of a tile where the transform does not ask for more: a few vectors' worth of work, in L1.
constexpr int64_t kTile = 4096;

// Short rows are walked several at a time, as one row whose signs repeat.
inline int64_t rows_per_tile(Axis axis) {
  return axis.inner == 1 && axis.n > 0 && axis.n < kTile && axis.n % 32 == 0 ? kTile / axis.n : 1;
}

// The signs of an axis to read: a small value, so that loops keep it in registers.
struct SignView {
  const char* bytes;
  int64_t mask;  // 0 where there are no signs: whatever is skipped, zeros follow

  // The signs of elements j, j + 1, ... in the low bits: 32 of them if j is a multiple of 8, otherwise 25.
  // Words lie little-endian, so bytes go by the same order.
  PYDELTA_INLINE uint32_t from(int64_t j) const {
    uint32_t bits;
    memcpy(&bits, bytes + (j >> 3), sizeof(bits));
    return bits >> (j & 7);
  }
  // The same from the i-th vector on, without arithmetic where vectors are whole bytes' worth.
  template <int lanes>
  PYDELTA_INLINE uint32_t from_vector(int64_t i) const {
    if constexpr (lanes % 8 != 0) return from(i * lanes);
    uint32_t bits;
    memcpy(&bits, bytes + i * (lanes / 8), sizeof(bits));
    return bits;
  }
  // The view from element j on, a multiple of 8.
  PYDELTA_INLINE SignView skip(int64_t j) const { return {bytes + ((j >> 3) & mask), mask}; }
  // All ones if element j has a minus.
  PYDELTA_INLINE uint32_t all(int64_t j) const { return 0u - (from(j) & 1); }
};

// What SignView is where there are no signs, for loops that are then compiled without.
struct NoSigns {
  PYDELTA_INLINE Plus from(int64_t) const { return {}; }
  PYDELTA_INLINE Plus all(int64_t) const { return {}; }
  template <int lanes>
  PYDELTA_INLINE Plus from_vector(int64_t) const {
    return {};
  }
  NoSigns skip(int64_t) const { return {}; }
};

// Bits by parity within each pair of vectors: the even elements' first, then the odd ones'.
inline uint32_t by_parity(uint32_t x) {
  constexpr uint32_t kSwap[] = {0x22222222u, 0x0c0c0c0cu, 0x00f000f0u, 0x0000ff00u};
  for (int i = 0; 4 << i <= 2 * kLanes<float>; ++i) {
    const uint32_t t = (x ^ (x >> (1 << i))) & kSwap[i];
    x ^= t ^ (t << (1 << i));
  }
  return x;
}

// Owns the signs; by default there are none, all plus.
class Signs {
 public:
  Signs() = default;
  // Signs first .. first + n - 1 of `key`, `copies` times (1 unless n is a multiple of 32); `first` is a
  // multiple of 128. `order`: of the vectors that will ask for them.
  Signs(Key key, uint64_t first, int64_t n, int64_t copies, Order order) {
    const int64_t blocks = (n + 127) / 128, room = (n * copies + 127) / 128 + 1;
    words_ = static_cast<Words4*>(std::malloc(size_t(room) * sizeof(Words4)));
    if (words_ == nullptr) throw std::bad_alloc();
    for (int64_t b = 0; b < blocks; b += kBlocks) {  // several at once: the compiler makes vectors of it
      Words4 words[kBlocks];
      for (int i = 0; i < kBlocks; ++i) words[i] = philox4x32(key, first / 128 + uint64_t(b + i));
      const int64_t wanted = blocks - b < kBlocks ? blocks - b : kBlocks;
      if (order == Order::parity) {
        for (Words4& block : words) {
          for (uint32_t& word : block.w) word = by_parity(word);
        }
      }
      memcpy(words_ + b, words, size_t(wanted) * sizeof(Words4));
    }
    char* const bytes = reinterpret_cast<char*>(words_);
    for (int64_t i = 1; i < copies; ++i) memcpy(bytes + i * (n / 8), bytes, size_t(n / 8));
  }
  Signs(const Signs&) = delete;
  Signs& operator=(const Signs&) = delete;
  Signs(Signs&& other) noexcept : words_(other.words_) { other.words_ = nullptr; }
  Signs& operator=(Signs&& other) noexcept {
    Words4* const mine = words_;
    words_ = other.words_;
    other.words_ = mine;
    return *this;
  }
  ~Signs() { std::free(words_); }

  SignView view() const {
    static constexpr Words4 none[kTile / 128 + 1]{};
    return {reinterpret_cast<const char*>(words_ ? words_ : none), words_ ? ~int64_t(0) : 0};
  }

 private:
  static constexpr int kBlocks = kLanes<float>;
  Words4* words_ = nullptr;
};

// What a transform does beside the butterflies: signs before (inner) and after (outer), and the scale that
// makes blocks orthonormal. D H D' or its inverse D' H D; "sign" has inner signs alone, "none" nothing.
struct Rotation {
  Signs inner, outer;
  double scale = 1;

  Rotation() = default;
  // The orders: in which vectors will ask for the signs before and for those after.
  Rotation(Key key, Axis axis, Transform transform, int64_t block, bool inverse, Order before, Order after)
      : scale(1 / std::sqrt(double(block))) {
    if (transform == Transform::none) return;
    const bool both = transform == Transform::hadamard;
    if (axis.inner > 1) before = after = Order::halves;  // one for all lanes: they are asked for one by one
    const int64_t copies = rows_per_tile(axis);
    inner = Signs(key, both && inverse ? kOuterSigns : 0, axis.n, copies, before);
    if (both) outer = Signs(key, inverse ? 0 : kOuterSigns, axis.n, copies, after);
  }
};

}  // namespace PYDELTA_NAMESPACE
