// SPDX-License-Identifier: Apache-2.0
// One warp per token and head. Integers sum to the same in any order.
#include <cuda_runtime.h>

#include "common/integer.h"
#include "common/launch.cuh"
#include "common/reduce.cuh"
#include "integer/integer_rotate_normalize.h"

namespace genaccel::integer {
namespace {

constexpr int kThreads = 128;
constexpr int kHeadsPerBlock = kThreads / kWarpSize;

__device__ Pair pair_of(const int16_t* x, const int16_t* rotation, int64_t i) {
  return turned(x[2 * i], x[2 * i + 1], rotation[2 * i], rotation[2 * i + 1]);
}

__global__ void __launch_bounds__(kThreads)
    integer_rotate_normalize_kernel(RotateNormalize p, int64_t units) {
  const int64_t unit = static_cast<int64_t>(blockIdx.x) * kHeadsPerBlock + threadIdx.x / kWarpSize;
  const int lane = threadIdx.x % kWarpSize;
  if (unit >= units) {
    return;  // whole warps leave together
  }
  const int16_t* x = p.x + unit * p.channels;
  const int16_t* rotation = p.rotations + unit / p.heads % p.tokens * p.channels;
  unsigned long long sum = 0;
  for (int64_t i = lane; i < p.channels / 2; i += kWarpSize) {
    const Pair pair = pair_of(x, rotation, i);
    sum += uint64_t{static_cast<uint32_t>(pair.even * pair.even)} +
           static_cast<uint32_t>(pair.odd * pair.odd);
  }
  const fixed_point::InverseNorm inverse = fixed_point::inverse_norm(warp_sum(sum), kUnitGain);
  int8_t* out = p.out + unit * p.channels;
  for (int64_t i = lane; i < p.channels / 2; i += kWarpSize) {
    const Pair pair = pair_of(x, rotation, i);
    out[2 * i] =
        static_cast<int8_t>(fixed_point::to_int8(fixed_point::normalized(pair.even, inverse)));
    out[2 * i + 1] =
        static_cast<int8_t>(fixed_point::to_int8(fixed_point::normalized(pair.odd, inverse)));
  }
}

}  // namespace

Status integer_rotate_normalize_cuda(const RotateNormalize& problem, int64_t rows, Stream stream) {
  const int64_t units = rows * problem.heads;
  if (units == 0) {
    return nullptr;
  }
  const auto blocks = static_cast<unsigned>(ceil_div(units, kHeadsPerBlock));
  integer_rotate_normalize_kernel<<<blocks, kThreads, 0, stream>>>(problem, units);
  return launch_status();
}

}  // namespace genaccel::integer
