// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>

#include "common/half.h"
#include "common/host_device.h"

namespace genaccel::tokens {

// 1 / standard deviation, for the sum of the squared distances from the mean.
template <typename A>
GENACCEL_HOST_DEVICE A inverse_deviation(A squared_sum, int64_t channels, A epsilon) {
  using std::sqrt;
  return A(1) / sqrt(squared_sum / static_cast<A>(channels) + epsilon);
}

// One channel of adaptive layer normalisation; V is A, or a vector of A.
template <typename V, typename A>
GENACCEL_HOST_DEVICE V norm_modulated(V x, A mean, A inverse, V shift, V scale) {
  return (x - mean) * inverse * (A(1) + scale) + shift;
}

}  // namespace genaccel::tokens
