// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "common/half.h"
#include "common/host_device.h"

namespace genaccel::forecast {

// One term of the weighted sum; V is A, or a vector of A.
template <typename V, typename A>
GENACCEL_HOST_DEVICE V with_term(V sum, A coefficient, V value) {
  return sum + coefficient * value;
}

}  // namespace genaccel::forecast
