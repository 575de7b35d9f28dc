// Vector registers of the instruction set this file is compiled for, and pairs of them.
#pragma once
#include <type_traits>
#include <utility>

#include "../../core/types.h"

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif
#if !defined(__GNUC__)
#error "pydelta's CPU kernels use GCC vector extensions: build with GCC 9 or newer, or with Clang"
#endif

namespace PYDELTA_NAMESPACE {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
constexpr int kRadixLog = 4;  // 16 of 32 registers hold data
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
constexpr int kRadixLog = 3;  // 8 of 16
#elif defined(__aarch64__)
constexpr int kVectorBytes = 16;
constexpr int kRadixLog = 4;
#else
constexpr int kVectorBytes = 16;
constexpr int kRadixLog = 3;
#endif

template <class E, int N>
struct vector_of {
  typedef E type __attribute__((vector_size(N * sizeof(E))));
};
template <class C>
constexpr int kLanes = kVectorBytes / int(sizeof(C));
template <class C>
using Vec = typename vector_of<C, kLanes<C>>::type;
template <class C>
using VecBits = typename vector_of<bits_t<C>, kLanes<C>>::type;

template <class C>
constexpr bits_t<C> kSignBit = bits_t<C>(1) << (8 * sizeof(C) - 1);

template <class C>
PYDELTA_INLINE inline Vec<C> broadcast(C value) {
  return Vec<C>{} + value;
}

// 0, 1, 2, ... in the lanes.
template <class C>
PYDELTA_INLINE inline VecBits<C> lane_index() {
  VecBits<C> index;
  for (int i = 0; i < kLanes<C>; ++i) index[i] = bits_t<C>(i);
  return index;
}

// A register of 16-bit floats, as they lie in memory.
constexpr int kWords = kVectorBytes / 2;
using Words = typename vector_of<uint16_t, kWords>::type;

// Two registers, for 2 kLanes<C> elements.
template <class C>
struct Pair {
  Vec<C> a, b;
};

// Which elements of a pair its vectors hold: the first and the second half, or the even and the odd ones. The
// latter is how bf16 comes apart cheapest (a word holds an even element below an odd one, each the upper half
// of an fp32), so loops over bf16 work in that order from load to store.
enum class Order { halves, parity };

template <class... T>
constexpr Order order_of = (std::is_same_v<T, bf16> || ...) ? Order::parity : Order::halves;

template <class C, size_t... lane>
PYDELTA_INLINE inline Pair<C> unzip(Pair<C> p, std::index_sequence<lane...>) {
#if defined(__clang__)
  return {__builtin_shufflevector(p.a, p.b, (2 * int(lane))...),
          __builtin_shufflevector(p.a, p.b, (2 * int(lane) + 1)...)};
#else
  return {__builtin_shuffle(p.a, p.b, VecBits<C>{bits_t<C>(2 * lane)...}),
          __builtin_shuffle(p.a, p.b, VecBits<C>{bits_t<C>(2 * lane + 1)...})};
#endif
}

template <class C, size_t... lane>
PYDELTA_INLINE inline Pair<C> zip(Pair<C> p, std::index_sequence<lane...>) {
  constexpr int lanes = kLanes<C>;
#if defined(__clang__)
  return {__builtin_shufflevector(p.a, p.b, (int(lane / 2 + lane % 2 * lanes))...),
          __builtin_shufflevector(p.a, p.b, (int(lane / 2 + lane % 2 * lanes) + lanes / 2)...)};
#else
  return {__builtin_shuffle(p.a, p.b, VecBits<C>{bits_t<C>(lane / 2 + lane % 2 * lanes)...}),
          __builtin_shuffle(p.a, p.b, VecBits<C>{bits_t<C>(lane / 2 + lane % 2 * lanes + lanes / 2)...})};
#endif
}

}  // namespace PYDELTA_NAMESPACE
