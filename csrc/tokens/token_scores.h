// SPDX-License-Identifier: Apache-2.0
// Bridge: score [rows] = |mean of x - reference over the channels|, for x [rows, channels] and
// reference of the same shape, or nullptr for none. One pass, sums in float (double for double).
#pragma once

#include <cstdint>

#include "common/status.h"
#include "common/stream.h"
#include "tokens/token_scores_math.h"

namespace genaccel::tokens {

// Rows [begin, end).
template <typename T>
void token_scores_cpu(const T* x, const T* reference, float* score, int64_t begin, int64_t end,
                      int64_t channels);

template <typename T>
Status token_scores_cuda(const T* x, const T* reference, float* score, int64_t rows,
                         int64_t channels, Stream stream);

}  // namespace genaccel::tokens
