// SPDX-License-Identifier: Apache-2.0
// Bridge: the frequency-domain update of PS-SR, in one pass over both pictures. Where the luminance
// of each is low + high, the result has the luminance low_f + alpha (w high_s + (1 - w) high_f)
// with w = |high_s| / (|high_s| + |high_f| + 1e-6), and the chroma of the faithful one: the same
// number is added to red, green and blue.
#pragma once

#include "common/half.h"
#include "common/status.h"
#include "common/stream.h"
#include "frequency/frequency_update_math.h"
#include "frequency/low_pass_shared.h"

namespace genaccel::frequency {

template <typename T>
struct FrequencyUpdate {
  const T* faithful;            // [frames, 3, height, width], or [frames, height, width, 3]
  const T* sharp;               // as faithful
  const Accumulate<T>* weight;  // [frames, height, width], of the change; or nullptr for ones
  T* out;                       // as faithful
  int64_t frames;
  int64_t height;
  int64_t width;
  bool interleaved;
  bool periodic;
  Accumulate<T> alpha;
  Taps<Accumulate<T>> taps;

  GENACCEL_HOST_DEVICE int64_t channel_stride() const { return interleaved ? 1 : height * width; }
  GENACCEL_HOST_DEVICE int64_t column_stride() const { return interleaved ? 3 : 1; }
  // Index of a row's first red sample.
  GENACCEL_HOST_DEVICE int64_t row_start(int64_t frame, int64_t row) const {
    return interleaved ? 3 * (frame * height + row) * width : (3 * frame * height + row) * width;
  }
};

// Rows [begin, end) of frames * height.
template <typename T>
void frequency_update_cpu(const FrequencyUpdate<T>& update, int64_t begin, int64_t end);

template <typename T>
Status frequency_update_cuda(const FrequencyUpdate<T>& update, Stream stream);

}  // namespace genaccel::frequency
