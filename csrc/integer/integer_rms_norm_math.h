// SPDX-License-Identifier: Apache-2.0
// A row of int32 is shifted to 15 bits; from there all products fit 32 bits.
#pragma once

#include <cstdint>

#include "integer/fixed_point_shared.h"

namespace genaccel::integer {

constexpr int kRowBits = 14;  // of a magnitude, after the shift

GENACCEL_HOST_DEVICE uint32_t magnitude(int32_t x) {
  return x < 0 ? 0u - static_cast<uint32_t>(x) : static_cast<uint32_t>(x);
}

// By how much a row must be shifted whose magnitudes, or'ed together, are `bits`.
GENACCEL_HOST_DEVICE int row_shift(uint32_t bits) {
  const int length = fixed_point::bit_length(bits);
  return length > kRowBits ? length - kRowBits : 0;
}

// x / 2^shift to the nearest, halves upwards.
GENACCEL_HOST_DEVICE int32_t shifted(int32_t x, int shift) {
  return shift == 0 ? x : ((x >> (shift - 1)) + 1) >> 1;
}

GENACCEL_HOST_DEVICE fixed_point::InverseNorm inverse_rms(uint64_t sum_of_squares, uint64_t epsilon,
                                                          int shift, uint32_t gain) {
  return fixed_point::inverse_norm(sum_of_squares + (epsilon >> (2 * shift)), gain);
}

}  // namespace genaccel::integer
