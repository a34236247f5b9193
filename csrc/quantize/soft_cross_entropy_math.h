// SPDX-License-Identifier: Apache-2.0
// Scalar rules of the soft cross-entropy, shared by the CPU and the CUDA code.
#pragma once

#include <cmath>

#include "common/host_device.h"
#include "common/soft_codes.h"

namespace genaccel::quantize {

template <typename A>
GENACCEL_HOST_DEVICE A rate_in_bits(A logit_sum, A mean_logit) {
  using std::log;
  return soft_codes::bits_from_nats(log(logit_sum) - mean_logit);
}

}  // namespace genaccel::quantize
