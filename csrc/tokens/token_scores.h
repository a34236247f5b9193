// SPDX-License-Identifier: Apache-2.0
// Bridge: score [rows] = |mean of x - reference over the channels|, for x [rows, channels] and
// reference of the same shape, or nullptr for none. One pass, sums in float (double for double).
#pragma once

#include <cmath>
#include <cstdint>

#include "common/half.h"
#include "common/host_device.h"
#include "common/status.h"
#include "common/stream.h"

namespace genaccel::tokens {

// Score of a token whose channels (or whose changes) have this sum.
template <typename A>
GENACCEL_HOST_DEVICE float score_of_sum(A sum, int64_t channels) {
  using std::fabs;
  return static_cast<float>(fabs(sum / static_cast<A>(channels)));
}

// Rows [begin, end).
template <typename T>
void token_scores_cpu(const T* x, const T* reference, float* score, int64_t begin, int64_t end,
                      int64_t channels);

template <typename T>
Status token_scores_cuda(const T* x, const T* reference, float* score, int64_t rows,
                         int64_t channels, Stream stream);

}  // namespace genaccel::tokens
