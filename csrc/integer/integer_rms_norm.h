// SPDX-License-Identifier: Apache-2.0
// Bridge: out = x * gain / sqrt(sum_c x^2 + epsilon) for each row of x [rows, channels].
#pragma once

#include <cstdint>

#include "common/status.h"
#include "common/stream.h"
#include "integer/integer_rms_norm_math.h"

namespace genaccel::integer {

struct RmsNorm {
  const int32_t* x;  // [rows, channels]
  int8_t* out;       // [rows, channels]
  int64_t channels;  // at most fixed_point::kMaxChannels
  uint32_t gain;     // 1 to fixed_point::kMaxGain
  uint64_t epsilon;  // less than 2^62
};

// Rows [begin, end).
void integer_rms_norm_cpu(const RmsNorm& problem, int64_t begin, int64_t end);

Status integer_rms_norm_cuda(const RmsNorm& problem, int64_t rows, Stream stream);

}  // namespace genaccel::integer
