// SPDX-License-Identifier: Apache-2.0
// Bridge: the low-pass of planes, summed in float (double for double).
#pragma once

#include "common/half.h"
#include "common/status.h"
#include "common/stream.h"
#include "frequency/low_pass_shared.h"

namespace genaccel::frequency {

template <typename T>
struct LowPass {
  const T* x;  // [planes, height, width]
  T* out;      // as x
  int64_t planes;
  int64_t height;
  int64_t width;
  bool periodic;
  Taps<Accumulate<T>> taps;
};

// Rows [begin, end) of planes * height.
template <typename T>
void low_pass_cpu(const LowPass<T>& filter, int64_t begin, int64_t end);

template <typename T>
Status low_pass_cuda(const LowPass<T>& filter, Stream stream);

}  // namespace genaccel::frequency
