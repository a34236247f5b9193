// SPDX-License-Identifier: Apache-2.0
// Bridge: queries or keys [batch, tokens, heads, channels], each pair of channels turned by its
// token's angles, and each head scaled to length 127.
#pragma once

#include <cstdint>

#include "common/status.h"
#include "common/stream.h"
#include "integer/integer_rotate_normalize_math.h"

namespace genaccel::integer {

struct RotateNormalize {
  const int16_t* x;          // [batch, tokens, heads, channels]
  const int16_t* rotations;  // [tokens, channels / 2, 2]: cosine, sine
  int8_t* out;               // as x
  int64_t tokens;
  int64_t heads;
  int64_t channels;  // even, at most fixed_point::kMaxChannels
};

// Rows [begin, end) of batch * tokens.
void integer_rotate_normalize_cpu(const RotateNormalize& problem, int64_t begin, int64_t end);

Status integer_rotate_normalize_cuda(const RotateNormalize& problem, int64_t rows, Stream stream);

}  // namespace genaccel::integer
