// SPDX-License-Identifier: Apache-2.0
// Bridge: out [batch, selected, channels] = layer_norm(x[b, index[b, j]]) * (1 + scale[b]) +
// shift[b], for x [batch, tokens, channels] and index [batch, selected]; rows of shift and scale
// [batch, channels] are a stride apart. Only the selected rows of x are read.
#pragma once

#include <cstdint>

#include "common/status.h"
#include "common/stream.h"
#include "tokens/gather_norm_modulate_math.h"

namespace genaccel::tokens {

struct GatherShape {
  int64_t batch;
  int64_t tokens;
  int64_t selected;
  int64_t channels;
  int64_t shift_stride;
  int64_t scale_stride;
};

// Rows [begin, end) of batch * selected. Indices must be in range.
template <typename T>
void gather_norm_modulate_cpu(const T* x, const int64_t* index, const T* shift, const T* scale,
                              T* out, int64_t begin, int64_t end, GatherShape shape,
                              double epsilon);

// A row whose index is out of range becomes NaN: to tell it here would stall the GPU.
template <typename T>
Status gather_norm_modulate_cuda(const T* x, const int64_t* index, const T* shift, const T* scale,
                                 T* out, GatherShape shape, double epsilon, Stream stream);

}  // namespace genaccel::tokens
