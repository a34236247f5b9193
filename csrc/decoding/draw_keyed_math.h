// SPDX-License-Identifier: Apache-2.0
// Noise that belongs to a place: bits from a key of seed, sequence, position and token (splitmix64,
// Steele, Lea and Flood, OOPSLA 2014), which are the same everywhere, and in float64 the Gumbel
// number that they stand for. log() may differ in its last bit between libraries, so that devices
// can only disagree where the two largest sums are as near as that.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/host_device.h"

namespace genaccel::decoding {

constexpr uint64_t kIncrement = 0x9e3779b97f4a7c15u;
constexpr int kNoiseBits = 52;  // with a half behind them they still fit a double

GENACCEL_HOST_DEVICE uint64_t mixed(uint64_t bits) {
  bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9u;
  bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebu;
  return bits ^ (bits >> 31);
}

GENACCEL_HOST_DEVICE uint64_t place_key(int64_t seed, int64_t sequence, int64_t position) {
  const uint64_t key =
      mixed(static_cast<uint64_t>(sequence) * kIncrement + static_cast<uint64_t>(seed));
  return mixed(key + (static_cast<uint64_t>(position) + 1) * kIncrement);
}

GENACCEL_HOST_DEVICE uint64_t noise_bits(uint64_t key, int64_t token) {
  return mixed(key + (static_cast<uint64_t>(token) + 1) * kIncrement) >> (64 - kNoiseBits);
}

// Of the uniform number u = (bits + 1/2) / 2^52.
GENACCEL_HOST_DEVICE double gumbel(uint64_t bits) {
  const double uniform = (static_cast<double>(bits) + 0.5) * 0x1p-52;
  return -std::log(-std::log(uniform));
}

GENACCEL_HOST_DEVICE int leading_zeros(uint64_t bits) {
#if defined(__CUDA_ARCH__)
  return __clzll(static_cast<long long>(bits));
#else
  return __builtin_clzll(bits);
#endif
}

// At least gumbel(bits), without a logarithm: -log(u) >= 1 - u, and 1 - u = (2 c + 1) / 2^53 with
// the complement c of the bits, whose leading zeros say its power of two.
GENACCEL_HOST_DEVICE double gumbel_ceiling(uint64_t bits) {
  const uint64_t complement = (uint64_t{1} << kNoiseBits) - 1 - bits;
  return (leading_zeros(2 * complement + 1) - 10) * 0.69314718055994531 + 1e-9;  // for rounding
}

// The largest sum so far. Nothing but a NaN is above a NaN, as where torch looks for the largest.
struct LargestSum {
  double value = -HUGE_VAL;
  int64_t token = 0;

  GENACCEL_HOST_DEVICE void offer(double log_weight, uint64_t key, int64_t candidate) {
    if (log_weight == -HUGE_VAL || value != value) {
      return;
    }
    const uint64_t bits = noise_bits(key, candidate);
    // Of a thousand tokens that are alike, all but some ten end here.
    if (log_weight + gumbel_ceiling(bits) < value) {
      return;
    }
    const double sum = log_weight + gumbel(bits);
    if (!(sum <= value)) {
      value = sum;
      token = candidate;
    }
  }

  // That of other tokens, too.
  GENACCEL_HOST_DEVICE void merge(const LargestSum& other) {
    const bool both_nan = value != value && other.value != other.value;
    const bool is_equal = both_nan || value == other.value;
    const bool is_below = value == value && !(other.value <= value);
    if (is_below || (is_equal && other.token < token)) {
      *this = other;
    }
  }
};

}  // namespace genaccel::decoding
