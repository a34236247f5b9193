// SPDX-License-Identifier: Apache-2.0
// What the CPU and the GPU share: samples, luminance, and the update of one place.
#pragma once

#include <cstdint>

#include "common/bit_cast.h"
#include "common/half.h"
#include "common/host_device.h"

namespace genaccel::frequency {

// Of the analogue YUV of the paper's code.
constexpr double kRed = 0.299;
constexpr double kGreen = 0.587;
constexpr double kBlue = 0.114;
constexpr double kEpsilon = 1e-6;

// The value of 1 as it is stored.
template <typename T>
constexpr int kWhite = sizeof(T) == 1 ? 255 : 1;

template <typename T>
GENACCEL_HOST_DEVICE Accumulate<T> number_of(T sample) {
  if constexpr (sizeof(T) == 1) {
    return sample;
  } else {
    return to_float(sample);
  }
}

// Of a value in [0, white]; of NaN a byte is anything.
template <typename T>
GENACCEL_HOST_DEVICE T sample_of(Accumulate<T> value) {
  if constexpr (sizeof(T) == 1) {
    // 1.5 * 2^23: the addition rounds to an integer, to even where two are as near, in the low
    // bits.
    return static_cast<uint8_t>(bit_cast<int32_t>(value + 12582912.0f) & 255);
  } else {
    return from_float<T>(value);
  }
}

// What is added to the luminance, from the high bands of both at one place; V is A, or a vector of
// A.
template <typename V, typename A>
GENACCEL_HOST_DEVICE V update_of(V faithful, V sharp, A alpha) {
  const V zero = V{};
  const V faithful_size = faithful < zero ? -faithful : faithful;
  const V sharp_size = sharp < zero ? -sharp : sharp;
  const V weight = sharp_size / (sharp_size + faithful_size + static_cast<A>(kEpsilon));
  return alpha * (faithful + weight * (sharp - faithful)) - faithful;
}

// A value in [0, white]; NaN stays NaN.
template <typename V, typename A>
GENACCEL_HOST_DEVICE V clamped(V value, A white) {
  const V zero = V{};
  const V positive = value < zero ? zero : value;
  const V top = zero + white;
  return positive > top ? top : positive;
}

}  // namespace genaccel::frequency
