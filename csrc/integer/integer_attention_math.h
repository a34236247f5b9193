// SPDX-License-Identifier: Apache-2.0
// Softmax in integers: 14-bit weights of scores below the largest, a reciprocal of their sum.
#pragma once

#include <cstdint>

#include "integer/fixed_point_shared.h"

namespace genaccel::integer {

constexpr int64_t kMaxKeys =
    1023;  // weights of 2^14 times values of 2^7 then sum to less than 2^31
constexpr int64_t kMaxHeadChannels = 256;
constexpr int64_t kMaxOutputGain = 16383;
constexpr int kGainBits = 8;          // fraction bits of the output gain
constexpr int kTemperatureBits = 26;  // fraction bits of a temperature, in octaves

// `below` = largest score - score; the temperature is positive. Also for vectors.
template <typename U, typename Product = fixed_point::HighProduct>
GENACCEL_HOST_DEVICE U attention_weight(U below, uint32_t temperature, uint32_t largest_below,
                                        Product product = {}) {
  const U limit = U{} + largest_below;
  const U inside = below < limit ? below : limit;
  const U octaves = (inside * temperature) >> (kTemperatureBits - 16);
  return (fixed_point::weight_below(octaves, 16, product) + 2u) >> 2;
}

// Where below * temperature would leave 32 bits the weight is zero, by far.
GENACCEL_HOST_DEVICE uint32_t largest_below(uint32_t temperature) {
  return UINT32_MAX / (temperature > 0 ? temperature : 1);
}

// weighted sum * gain / 2^kGainBits / sum of the weights as (weighted sum * multiplier) >> shift.
struct Reciprocal {
  int32_t multiplier;
  int32_t shift;  // 39 to 48
};

// The sum lies in [2^14, 2^24), the gain in [1, kMaxOutputGain]. Of no keys the average is zero.
GENACCEL_HOST_DEVICE Reciprocal reciprocal(uint32_t sum, uint32_t gain) {
  if (sum == 0) {
    return {0, 39};
  }
  const int power = 16 + fixed_point::bit_length(sum);
  return {static_cast<int32_t>((uint64_t{gain} << power) / sum), power + kGainBits};
}

GENACCEL_HOST_DEVICE int8_t averaged(int32_t weighted_sum, Reciprocal r) {
  const int64_t product = int64_t{weighted_sum} * r.multiplier;
  return static_cast<int8_t>(
      fixed_point::to_int8(static_cast<int32_t>(fixed_point::rounded_shift(product, r.shift))));
}

}  // namespace genaccel::integer
