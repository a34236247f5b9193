// SPDX-License-Identifier: Apache-2.0
// Bridge: the token of each row [rows, tokens] of log-weights whose sum with the Gumbel noise of
// its place is largest, the first of equal ones: a draw from softmax(log-weights). The noise is
// made where it is needed, and stored nowhere.
#pragma once

#include <cstdint>

#include "common/status.h"
#include "common/stream.h"
#include "decoding/draw_keyed_math.h"

namespace genaccel::decoding {

template <typename T>
struct KeyedDraw {
  const T* log_weights;      // [rows, tokens]
  const int64_t* sequences;  // [rows]
  const int64_t* positions;  // [rows]
  int64_t* drawn;            // [rows]
  int64_t tokens;            // at least 1
  int64_t seed;
};

// Rows [begin, end).
template <typename T>
void draw_keyed_cpu(const KeyedDraw<T>& draw, int64_t begin, int64_t end);

template <typename T>
Status draw_keyed_cuda(const KeyedDraw<T>& draw, int64_t rows, Stream stream);

}  // namespace genaccel::decoding
