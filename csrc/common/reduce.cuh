// SPDX-License-Identifier: Apache-2.0
// Sums over the threads of a warp, in a fixed order; for .cu files only.
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

}  // namespace genaccel
