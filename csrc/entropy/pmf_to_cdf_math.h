// SPDX-License-Identifier: Apache-2.0
// How a probability becomes slots of an integer table. After the one rounding of fixed_point all is
// integer, so the CPU and the GPU give the same table for the same probabilities.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/host_device.h"

namespace genaccel::entropy {

constexpr int kMaxPrecision = 24;  // bits of a table

// Fraction bits of a weight, such that weight * 2^precision and the sum of 2^precision weights fit
// 63 bits.
GENACCEL_HOST_DEVICE int fraction_bits(int precision) { return 62 - precision; }

// What is no probability (negative, NaN, infinite) counts as zero.
GENACCEL_HOST_DEVICE double sanitized(double p) {
  using std::isfinite;
  return isfinite(p) && p > 0 ? p : 0.0;
}

// p relative to the row's largest entry, as an integer. A row without any positive entry is
// uniform. IEEE division and rint round alike everywhere; scaling by a power of two is exact.
GENACCEL_HOST_DEVICE uint64_t fixed_point(double p, double largest, int precision) {
  using std::rint;
  const double one = static_cast<double>(uint64_t{1} << fraction_bits(precision));
  return static_cast<uint64_t>(largest > 0 ? rint(sanitized(p) / largest * one) : one);
}

// A symbol's share of the slots that are left after each symbol has got one.
struct Share {
  uint64_t whole;
  uint64_t remainder;
};

GENACCEL_HOST_DEVICE Share share_of(uint64_t weight, uint64_t weight_sum, uint64_t free_slots) {
  const uint64_t scaled = weight * free_slots;
  return {scaled / weight_sum, scaled % weight_sum};
}

}  // namespace genaccel::entropy
