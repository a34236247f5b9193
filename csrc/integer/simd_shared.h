// SPDX-License-Identifier: Apache-2.0
// Vectors of integers for the CPU code: dot products of int8 values widened to int16. Every
// instruction set gives the same integers. For *_cpu.cpp only.
#pragma once

#include <cstdint>

#include "common/simd.h"

namespace genaccel::simd {

typedef int8_t Bytes __attribute__((vector_size(16)));
typedef int16_t HalfShorts __attribute__((vector_size(16)));
typedef int16_t Shorts __attribute__((vector_size(32)));
typedef int32_t Ints __attribute__((vector_size(32)));
typedef uint64_t Longs __attribute__((vector_size(32)));

constexpr int kShorts = 16;
constexpr int kInts = 8;

template <typename V, typename T>
GENACCEL_HOST_DEVICE V load_as(const T* from) {
  V vector;
  __builtin_memcpy(&vector, from, sizeof(vector));
  return vector;
}

template <typename V, typename T>
GENACCEL_HOST_DEVICE void store_as(T* to, V vector) {
  __builtin_memcpy(to, &vector, sizeof(vector));
}

// The lower halves of lanes of 32 bits, with their sign.
GENACCEL_HOST_DEVICE Ints low_halves(Ints a) {
  return bit_cast<Ints>(bit_cast<Bits>(a) << 16) >> 16;
}

// Sums that wrap around, as sums of unsigned numbers do.
GENACCEL_HOST_DEVICE Ints wrapping_sum(Ints a, Ints b) {
  return bit_cast<Ints>(bit_cast<Bits>(a) + bit_cast<Bits>(b));
}

// a[2i] b[2i] + a[2i + 1] b[2i + 1] per lane of 32 bits; 2^31, of four times -32768, wraps around.
template <typename Isa>
GENACCEL_HOST_DEVICE Ints pair_dot(Shorts a, Shorts b) {
#if defined(__x86_64__)
  if constexpr (Isa::kHasF16c) {  // AVX2; asm for the reason given in simd.h
    Ints sum;
    asm("vpmaddwd %2, %1, %0" : "=x"(sum) : "x"(a), "xm"(b));
    return sum;
  }
#endif
  const auto x = bit_cast<Ints>(a);
  const auto y = bit_cast<Ints>(b);
  return wrapping_sum(low_halves(x) * low_halves(y), (x >> 16) * (y >> 16));
}

// fixed_point::HighProduct of lanes of 32 bits.
template <typename Isa>
struct HighProduct {
  GENACCEL_HOST_DEVICE Bits operator()(Bits a, Bits b) const {
#if defined(__x86_64__)
    if constexpr (Isa::kHasF16c) {
      Bits product;  // of halves of lanes, the upper of which are zero
      asm("vpmulhuw %2, %1, %0" : "=x"(product) : "x"(a), "x"(b));
      return product;
    }
#endif
    return (a * b) >> 16;
  }
};

// The same two numbers in every pair.
GENACCEL_HOST_DEVICE Shorts broadcast_pair(const int16_t* from) {
  int32_t pair;
  __builtin_memcpy(&pair, from, sizeof(pair));
  return bit_cast<Shorts>(Ints{} + pair);
}

// to[0, padded) = from[0, count), zeros behind; padded is a multiple of 16.
template <typename Isa>
GENACCEL_HOST_DEVICE void widen(const int8_t* from, int64_t count, int16_t* to, int64_t padded) {
  int64_t i = 0;
  for (; i + kShorts <= count; i += kShorts) {
    store_as(to + i, __builtin_convertvector(load_as<Bytes>(from + i), Shorts));
  }
  for (; i < padded; ++i) {
    to[i] = i < count ? from[i] : int16_t{0};
  }
}

// Lane i: the sum over the lanes of v[i].
GENACCEL_HOST_DEVICE Ints sums_of_lanes(const Ints (&v)[kInts]) {
  Ints pairs[4];  // of vectors a, b: a0 b0 a1 b1 | a2 b2 a3 b3
  for (int i = 0; i < 4; ++i) {
    const Ints a = v[2 * i];
    const Ints b = v[2 * i + 1];
    pairs[i] = __builtin_shufflevector(a, b, 0, 8, 1, 9, 4, 12, 5, 13) +
               __builtin_shufflevector(a, b, 2, 10, 3, 11, 6, 14, 7, 15);
  }
  Ints quads[2];  // lower halves of 4 vectors | upper halves
  for (int i = 0; i < 2; ++i) {
    const Ints a = pairs[2 * i];
    const Ints b = pairs[2 * i + 1];
    quads[i] = __builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13) +
               __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15);
  }
  return __builtin_shufflevector(quads[0], quads[1], 0, 1, 2, 3, 8, 9, 10, 11) +
         __builtin_shufflevector(quads[0], quads[1], 4, 5, 6, 7, 12, 13, 14, 15);
}

// v as the columns of an 8 by 8 matrix instead of its rows.
GENACCEL_HOST_DEVICE void transpose(Ints (&v)[kInts]) {
  Ints pairs[kInts];  // of rows a, b: a0 b0 a1 b1 | a4 b4 a5 b5, then a2 b2 a3 b3 | a6 b6 a7 b7
  for (int i = 0; i < kInts; i += 2) {
    pairs[i] = __builtin_shufflevector(v[i], v[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
    pairs[i + 1] = __builtin_shufflevector(v[i], v[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
  }
  Ints quads[kInts];  // columns 0 | 4, 1 | 5, 2 | 6 and 3 | 7 of rows 0 to 3, then of rows 4 to 7
  for (int i = 0; i < kInts; i += 4) {
    for (int j = 0; j < 2; ++j) {
      const Ints a = pairs[i + j];
      const Ints b = pairs[i + j + 2];
      quads[i + 2 * j] = __builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13);
      quads[i + 2 * j + 1] = __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15);
    }
  }
  for (int i = 0; i < 4; ++i) {
    v[i] = __builtin_shufflevector(quads[i], quads[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    v[i + 4] = __builtin_shufflevector(quads[i], quads[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
}

// (a * multiplier + 2^(shift - 1)) >> shift in 64 bits, per lane; 32 <= shift <= 62.
template <typename Isa>
GENACCEL_HOST_DEVICE Ints scaled(Ints a, Ints multiplier, int shift) {
#if defined(__x86_64__)
  if constexpr (Isa::kHasF16c) {
    const Ints odd_a = bit_cast<Ints>(bit_cast<Longs>(a) >> 32);
    const Ints odd_multiplier = bit_cast<Ints>(bit_cast<Longs>(multiplier) >> 32);
    Longs even;
    Longs odd;
    asm("vpmuldq %2, %1, %0" : "=x"(even) : "x"(a), "x"(multiplier));
    asm("vpmuldq %2, %1, %0" : "=x"(odd) : "x"(odd_a), "x"(odd_multiplier));
    const uint64_t half = uint64_t{1} << (shift - 1);
    const auto low = bit_cast<Ints>((even + half) >> 32);
    const auto high = bit_cast<Ints>(odd + half);
    return __builtin_shufflevector(low, high, 0, 9, 2, 11, 4, 13, 6, 15) >> (shift - 32);
  }
#endif
  Ints result;
  for (int i = 0; i < kInts; ++i) {
    const int64_t product = int64_t{a[i]} * multiplier[i];
    result[i] = static_cast<int32_t>((product + (int64_t{1} << (shift - 1))) >> shift);
  }
  return result;
}

// The lanes of a, then those of b, saturated.
template <typename Isa>
GENACCEL_HOST_DEVICE Shorts saturated_shorts(Ints a, Ints b) {
#if defined(__x86_64__)
  if constexpr (Isa::kHasF16c) {
    Longs packed;  // quarters a0 b0 | a1 b1
    asm("vpackssdw %2, %1, %0" : "=x"(packed) : "x"(a), "x"(b));
    return bit_cast<Shorts>(__builtin_shufflevector(packed, packed, 0, 2, 1, 3));
  }
#endif
  Shorts result;
  for (int i = 0; i < kInts; ++i) {
    result[i] = static_cast<int16_t>(a[i] < -32768 ? -32768 : a[i] > 32767 ? 32767 : a[i]);
    result[kInts + i] = static_cast<int16_t>(b[i] < -32768 ? -32768 : b[i] > 32767 ? 32767 : b[i]);
  }
  return result;
}

template <typename Isa>
GENACCEL_HOST_DEVICE Bytes saturated_bytes(Shorts a) {
#if defined(__x86_64__)
  if constexpr (Isa::kHasF16c) {
    const HalfShorts low = __builtin_shufflevector(a, a, 0, 1, 2, 3, 4, 5, 6, 7);
    const HalfShorts high = __builtin_shufflevector(a, a, 8, 9, 10, 11, 12, 13, 14, 15);
    Bytes packed;
    asm("vpacksswb %2, %1, %0" : "=x"(packed) : "x"(low), "x"(high));
    return packed;
  }
#endif
  Bytes result;
  for (int i = 0; i < kShorts; ++i) {
    result[i] = static_cast<int8_t>(a[i] < -128 ? -128 : a[i] > 127 ? 127 : a[i]);
  }
  return result;
}

}  // namespace genaccel::simd
