// SPDX-License-Identifier: Apache-2.0
// How a sum of products becomes an output: (sum * multiplier) / 2^shift, to the nearest, saturated.
#pragma once

#include <cstdint>

#include "integer/fixed_point_shared.h"

namespace genaccel::integer {

// From 32 bits the upper half of a product is all that counts, and fits 32 bits unsaturated.
constexpr int kMinShift = 32;
constexpr int kMaxShift = 62;
// 2^15 products of 2^14 keep the sum below 2^30.
constexpr int64_t kMaxInputs = 32768;

template <typename T>
struct OutputRange;
template <>
struct OutputRange<int8_t> {
  static constexpr int32_t kLowest = -128;
  static constexpr int32_t kHighest = 127;
};
template <>
struct OutputRange<int16_t> {
  static constexpr int32_t kLowest = -32768;
  static constexpr int32_t kHighest = 32767;
};
template <>
struct OutputRange<int32_t> {
  static constexpr int32_t kLowest = INT32_MIN;
  static constexpr int32_t kHighest = INT32_MAX;
};

// The bias wraps around, as sums of int32 do; whoever exports a model sees to it that none does.
GENACCEL_HOST_DEVICE int32_t with_bias(int32_t sum, int32_t bias) {
  return static_cast<int32_t>(static_cast<uint32_t>(sum) + static_cast<uint32_t>(bias));
}

template <typename T>
GENACCEL_HOST_DEVICE T requantized(int32_t sum, int32_t multiplier, int shift) {
  const auto value =
      static_cast<int32_t>(fixed_point::rounded_shift(int64_t{sum} * multiplier, shift));
  return static_cast<T>(
      fixed_point::clamped(value, OutputRange<T>::kLowest, OutputRange<T>::kHighest));
}

}  // namespace genaccel::integer
