// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "common/half.h"
#include "common/host_device.h"

namespace genaccel::tokens {

// One channel of a block's output; V is a float type, or a vector of it.
template <typename V>
GENACCEL_HOST_DEVICE V gated_residual(V residual, V gate, V value) {
  return residual + gate * value;
}

}  // namespace genaccel::tokens
