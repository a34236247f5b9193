// SPDX-License-Identifier: Apache-2.0
// What the threads of a block find together. Each function is for all threads of the block, is a
// barrier for them, and gives all of them the same.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "common/reduce.cuh"

namespace genaccel::decoding {

template <int kThreads, typename A, typename Operation>
__device__ __forceinline__ A block_reduce(A value, const Operation& operation) {
  __shared__ A parts[kThreads / kWarpSize];
#pragma unroll
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    value = operation(value, __shfl_xor_sync(0xffffffffu, value, offset));
  }
  __syncthreads();  // what an earlier call left has been read
  if (threadIdx.x % kWarpSize == 0) {
    parts[threadIdx.x / kWarpSize] = value;
  }
  __syncthreads();
  value = parts[0];
#pragma unroll
  for (int warp = 1; warp < kThreads / kWarpSize; ++warp) {
    value = operation(value, parts[warp]);
  }
  return value;
}

template <int kThreads, typename A>
__device__ __forceinline__ A block_sum(A value) {
  return block_reduce<kThreads>(value, [](A a, A b) { return a + b; });
}

template <int kThreads, typename A>
__device__ __forceinline__ A block_largest(A value) {
  return block_reduce<kThreads>(value, [](A a, A b) { return a < b ? b : a; });
}

// Not the same for all: the sum of the values of this thread and those before it.
template <int kThreads>
__device__ __forceinline__ double block_inclusive_sum(double value) {
  __shared__ double parts[kThreads / kWarpSize];
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
#pragma unroll
  for (int offset = 1; offset < kWarpSize; offset *= 2) {
    const double before = __shfl_up_sync(0xffffffffu, value, offset);
    value = lane >= offset ? before + value : value;
  }
  __syncthreads();
  if (lane == kWarpSize - 1) {
    parts[warp] = value;
  }
  __syncthreads();
  double before = 0;
  for (int earlier = 0; earlier < warp; ++earlier) {
    before += parts[earlier];
  }
  return before + value;
}

// The value of one thread.
template <typename A>
__device__ __forceinline__ A block_value_of(int thread, A value) {
  __shared__ A chosen;
  __syncthreads();
  if (static_cast<int>(threadIdx.x) == thread) {
    chosen = value;
  }
  __syncthreads();
  return chosen;
}

}  // namespace genaccel::decoding
