// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>

#include "common/half.h"
#include "common/host_device.h"

namespace genaccel::tokens {

// Score of a token whose channels (or whose changes) have this sum.
template <typename A>
GENACCEL_HOST_DEVICE float score_of_sum(A sum, int64_t channels) {
  using std::fabs;
  return static_cast<float>(fabs(sum / static_cast<A>(channels)));
}

}  // namespace genaccel::tokens
