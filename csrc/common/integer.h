// SPDX-License-Identifier: Apache-2.0
// Integer arithmetic for host and device.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace genaccel {

GENACCEL_HOST_DEVICE constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// An index from a tensor, where no error can be raised any more: one that does not exist becomes 0.
GENACCEL_HOST_DEVICE constexpr int64_t existing_index(int64_t index, int64_t size) {
  return index >= 0 && index < size ? index : 0;
}

}  // namespace genaccel
