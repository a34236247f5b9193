// SPDX-License-Identifier: Apache-2.0
// Fixed-point arithmetic that a bitstream depends on: integers only, so that every machine, thread
// count and device computes the same. Signed shifts are arithmetic, as all our compilers have them.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace genaccel::integer::fixed_point {

GENACCEL_HOST_DEVICE int32_t clamped(int32_t value, int32_t lowest, int32_t highest) {
  return value < lowest ? lowest : value > highest ? highest : value;
}

// x^2 of |x| < 2^16.
GENACCEL_HOST_DEVICE uint32_t squared(int32_t x) {
  return static_cast<uint32_t>(x) * static_cast<uint32_t>(x);
}

GENACCEL_HOST_DEVICE int32_t to_int8(int32_t value) { return clamped(value, -128, 127); }

// value / 2^shift to the nearest integer, halves upwards; 1 <= shift <= 30 and no overflow of the
// sum.
GENACCEL_HOST_DEVICE int32_t rounded_shift(int32_t value, int shift) {
  return (value + (int32_t{1} << (shift - 1))) >> shift;
}

// The same for 64 bits, 1 <= shift <= 62.
GENACCEL_HOST_DEVICE int64_t rounded_shift(int64_t value, int shift) {
  return (value + (int64_t{1} << (shift - 1))) >> shift;
}

GENACCEL_HOST_DEVICE int leading_zeros(uint64_t value) {
#if defined(__CUDA_ARCH__)
  return __clzll(static_cast<long long>(value));
#else
  return value == 0 ? 64 : __builtin_clzll(value);
#endif
}

GENACCEL_HOST_DEVICE int bit_length(uint64_t value) { return 64 - leading_zeros(value); }

// floor(sqrt(value)) for value >= 2^30: two Newton steps from the secant of [2^30, 2^32), whose
// error of 6 % becomes less than 1, and the step that is left.
GENACCEL_HOST_DEVICE uint32_t square_root(uint32_t value) {
  uint32_t root = 21845 + value / 98304;
  root = (root + value / root) >> 1;
  root = (root + value / root) >> 1;
  while (uint64_t{root} * root > value) {
    --root;
  }
  while (uint64_t{root + 1} * (root + 1) <= value) {
    ++root;
  }
  return root;
}

// x * gain / sqrt(sum_of_squares) as (x * mantissa) / 2^shift, to about 15 bits.
struct InverseNorm {
  int32_t mantissa;  // at most 2^15
  int32_t shift;     // 1 to 30
};

constexpr int64_t kMaxGain = 8191;       // keeps the shift positive
constexpr int64_t kMaxChannels = 65536;  // of a row, so that sums of squares are far from 2^64

// gain in [1, kMaxGain], |x| <= 2^15; of a zero sum all is zero.
GENACCEL_HOST_DEVICE InverseNorm inverse_norm(uint64_t sum_of_squares, uint32_t gain) {
  if (sum_of_squares == 0) {
    return {0, 1};
  }
  // An even power of two brings the sum to [2^30, 2^32), where the root keeps 16 bits.
  const int length = bit_length(sum_of_squares);
  const int half_power = length > 32 ? (length - 31) / 2 : -((32 - length) / 2);
  const auto scaled = static_cast<uint32_t>(half_power >= 0 ? sum_of_squares >> (2 * half_power)
                                                            : sum_of_squares << (-2 * half_power));
  const uint64_t root = square_root(scaled);  // [2^15, 2^16)
  const int gain_power = 32 - bit_length(gain);
  const uint64_t quotient = ((uint64_t{gain} << gain_power) << 16) / root;  // (2^31, 2^33)
  const int drop = bit_length(quotient) - 15;
  const uint64_t mantissa = (quotient + (uint64_t{1} << (drop - 1))) >> drop;  // [2^14, 2^15]
  const int shift = 16 + gain_power + half_power - drop;
  if (shift > 30) {
    return {0, 1};  // |x| * mantissa / 2^shift rounds to zero
  }
  return {static_cast<int32_t>(mantissa), shift};
}

GENACCEL_HOST_DEVICE int32_t normalized(int32_t x, InverseNorm inverse) {
  return rounded_shift(x * inverse.mantissa, inverse.shift);
}

constexpr uint32_t kOne = 65536;      // 1.0 in 16 fraction bits
constexpr uint32_t kMaxOctaves = 31;  // 2^-18 is zero already

// The upper half of a product of two numbers below 2^16.
struct HighProduct {
  GENACCEL_HOST_DEVICE uint32_t operator()(uint32_t a, uint32_t b) const { return (a * b) >> 16; }
};

// 2^-x of unsigned 16.16 fixed point, x < 32, in [0, 65536]: the fraction by a cubic (relative
// error 1e-4, 1 at 0), whose coefficients are a minimax fit, the rest by a rounding shift. Also for
// vectors of uint32_t, with a product of their own.
template <typename U, typename Product = HighProduct>
GENACCEL_HOST_DEVICE U exp2_of_negative(U x, Product product = {}) {
  const U fraction = x & 0xffffu;
  const U octaves = x >> 16;
  U p = 15110u - product(fraction, U{} + 2565u);
  p = 45313u - product(fraction, p);
  p = kOne - product(fraction, p);
  return (p + (((U{} + 1u) << octaves) >> 1)) >> octaves;
}

// Exponential weight of a score that lies `below` the largest, in 2^-fraction_bits octaves. Also
// for vectors.
template <typename U, typename Product = HighProduct>
GENACCEL_HOST_DEVICE U weight_below(U below, int fraction_bits, Product product = {}) {
  const U highest = U{} + ((kMaxOctaves + 1) << fraction_bits) - 1;
  const U inside = below < highest ? below : highest;
  return exp2_of_negative(inside << (16 - fraction_bits), product);
}

}  // namespace genaccel::integer::fixed_point
