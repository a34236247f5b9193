// SPDX-License-Identifier: Apache-2.0
// Sums over the threads of a row, in a fixed order; for .cu files only.
#pragma once

#include <cuda_runtime.h>

namespace genaccel {

constexpr int kWarpSize = 32;

template <typename A>
__device__ __forceinline__ A warp_sum(A value) {
#pragma unroll
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, offset);
  }
  return value;
}

// The sum over kThreads threads, known to each of them: a warp, or a whole block of at most 1024.
// scratch holds one entry per warp and is not used by a warp alone.
template <int kThreads, typename A>
__device__ __forceinline__ A row_sum(A value, A* scratch) {
  value = warp_sum(value);
  if constexpr (kThreads > kWarpSize) {
    const int lane = threadIdx.x % kWarpSize;
    if (lane == 0) {
      scratch[threadIdx.x / kWarpSize] = value;
    }
    __syncthreads();
    value = warp_sum(lane < kThreads / kWarpSize ? scratch[lane] : A(0));
    __syncthreads();  // before scratch is used again
  }
  return value;
}

}  // namespace genaccel
