// SPDX-License-Identifier: Apache-2.0
// Bridge: cache[b, index[b, j]] = rows[b, j] in place, and out = residual + gate[b] * cache.
// Shapes: residual, cache and out [batch, tokens, channels], rows [batch, selected, channels],
// index [batch, selected]; rows of gate [batch, channels] are a stride apart. Of equal indices the
// last counts.
//
// Per channel, an untouched token reads residual and cache and writes out; a selected one reads
// residual and its row and writes out and cache: 3 tokens + selected elements in all. A new cache
// instead would make it 4 tokens, and separate scatter, product and sum 5 tokens + 2 selected.
#pragma once

#include <cstdint>

#include "common/status.h"
#include "common/stream.h"
#include "tokens/scatter_gated_residual_math.h"

namespace genaccel::tokens {

struct ScatterShape {
  int64_t batch;
  int64_t tokens;
  int64_t selected;
  int64_t channels;
  int64_t gate_stride;
};

// Tokens [begin, end) of batch * tokens. position [batch, tokens] holds j where the token is
// index[b, j], and -1 where it is none.
template <typename T>
void scatter_gated_residual_cpu(const T* residual, T* cache, const T* rows, const int32_t* position,
                                const T* gate, T* out, int64_t begin, int64_t end,
                                ScatterShape shape);

// Rows whose index is out of range are dropped: to tell it here would stall the GPU.
template <typename T>
Status scatter_gated_residual_cuda(const T* residual, T* cache, const T* rows, const int64_t* index,
                                   const T* gate, T* out, ScatterShape shape, Stream stream);

}  // namespace genaccel::tokens
