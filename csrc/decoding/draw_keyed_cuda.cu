// SPDX-License-Identifier: Apache-2.0
// A block a row, whose threads take every kThreads-th token, each with its own largest sum, then
// the largest of all. The row is read once, in whole lines.
#include <cuda_runtime.h>

#include "common/launch.cuh"
#include "common/reduce.cuh"
#include "decoding/draw_keyed.h"

namespace genaccel::decoding {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;

__device__ LargestSum largest_of_warp(LargestSum largest) {
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    LargestSum other;
    other.value = __shfl_xor_sync(0xffffffffu, largest.value, offset);
    other.token = __shfl_xor_sync(0xffffffffu, largest.token, offset);
    largest.merge(other);
  }
  return largest;
}

template <typename T>
__global__ void __launch_bounds__(kThreads) draw_keyed_kernel(const KeyedDraw<T> draw) {
  __shared__ double values[kWarps];
  __shared__ int64_t tokens[kWarps];
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t row = blockIdx.x;
  const uint64_t key = place_key(draw.seed, draw.sequences[row], draw.positions[row]);
  const T* weights = draw.log_weights + row * draw.tokens;
  LargestSum largest;
  for (int64_t token = thread; token < draw.tokens; token += kThreads) {
    largest.offer(static_cast<double>(weights[token]), key, token);
  }
  largest = largest_of_warp(largest);
  if (thread % kWarpSize == 0) {
    values[thread / kWarpSize] = largest.value;
    tokens[thread / kWarpSize] = largest.token;
  }
  __syncthreads();
  if (thread < kWarpSize) {
    const int warp = thread % kWarps;  // some twice, which changes nothing
    largest.value = values[warp];
    largest.token = tokens[warp];
    largest = largest_of_warp(largest);
    if (thread == 0) {
      draw.drawn[row] = largest.token;
    }
  }
}

}  // namespace

template <typename T>
Status draw_keyed_cuda(const KeyedDraw<T>& draw, int64_t rows, Stream stream) {
  return start({rows, kThreads, stream}, draw_keyed_kernel<T>, draw);
}

template Status draw_keyed_cuda<float>(const KeyedDraw<float>&, int64_t, Stream);
template Status draw_keyed_cuda<double>(const KeyedDraw<double>&, int64_t, Stream);

}  // namespace genaccel::decoding
