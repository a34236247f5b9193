// SPDX-License-Identifier: Apache-2.0
// Integer arithmetic for host and device.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace genaccel {

GENACCEL_HOST_DEVICE constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace genaccel
