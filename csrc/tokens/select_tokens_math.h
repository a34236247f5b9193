// SPDX-License-Identifier: Apache-2.0
// The order of scores, as integers: the CPU and the GPU select the same tokens.
#pragma once

#include <cstdint>

#include "common/bit_cast.h"
#include "common/host_device.h"

namespace genaccel::tokens {

// Sum of a token's scores over the groups, `stride` apart, in this order on every device.
GENACCEL_HOST_DEVICE float summed_score(const float* score, int64_t groups, int64_t stride) {
  float sum = score[0];
  for (int64_t group = 1; group < groups; ++group) {
    sum += score[group * stride];
  }
  return sum;
}

// A larger score has a larger key, equal ones (0 and -0 too) have equal keys. NaN is above all, as
// where torch sorts.
GENACCEL_HOST_DEVICE uint32_t ordered_key(float score) {
  if (score != score) {
    return 0xffffffffu;
  }
  const uint32_t bits = bit_cast<uint32_t>(score + 0.0f);  // -0 + 0 is 0
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

}  // namespace genaccel::tokens
