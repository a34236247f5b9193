// SPDX-License-Identifier: Apache-2.0
// A row is walked once; nearly all of its noise is ruled out before the logarithms.
#include "decoding/draw_keyed.h"

namespace genaccel::decoding {

template <typename T>
void draw_keyed_cpu(const KeyedDraw<T>& draw, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const uint64_t key = place_key(draw.seed, draw.sequences[row], draw.positions[row]);
    const T* weights = draw.log_weights + row * draw.tokens;
    LargestSum largest;
    for (int64_t token = 0; token < draw.tokens; ++token) {
      largest.offer(static_cast<double>(weights[token]), key, token);
    }
    draw.drawn[row] = largest.token;
  }
}

template void draw_keyed_cpu<float>(const KeyedDraw<float>&, int64_t, int64_t);
template void draw_keyed_cpu<double>(const KeyedDraw<double>&, int64_t, int64_t);

}  // namespace genaccel::decoding
