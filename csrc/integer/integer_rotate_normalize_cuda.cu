// SPDX-License-Identifier: Apache-2.0
// Some lanes of a warp per token and head, 16 bytes a lane: 4 lanes for the 32 channels of a head.
// Integers sum to the same in any order.
#include <cuda_runtime.h>

#include "common/integer.h"
#include "common/launch.cuh"
#include "common/pack.cuh"
#include "common/reduce.cuh"
#include "integer/integer_rotate_normalize.h"

namespace genaccel::integer {
namespace {

constexpr int kThreads = 128;
constexpr int kPackPairs = kPackWidth<int16_t> / 2;
constexpr int kPackLanes = 4;

// The i-th kPairs pairs of a head, turned.
template <int kPairs>
__device__ __forceinline__ void turn(const int16_t* x, const int16_t* rotation, int64_t i,
                                     Pair (&pairs)[kPairs]) {
  if constexpr (kPairs == 1) {  // aligned to nothing
    pairs[0] = turned(x[2 * i], x[2 * i + 1], rotation[2 * i], rotation[2 * i + 1]);
  } else {
    const auto values = load_pack<2 * kPairs>(x, i);
    const auto turns = load_pack<2 * kPairs>(rotation, i);
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      pairs[j] = turned(values.value[2 * j], values.value[2 * j + 1], turns.value[2 * j],
                        turns.value[2 * j + 1]);
    }
  }
}

template <int kPairs, int kLanes>
__global__ void __launch_bounds__(kThreads)
    integer_rotate_normalize_kernel(RotateNormalize p, int64_t units) {
  const int64_t own = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / kLanes;
  const int64_t unit = own < units ? own : units - 1;  // every lane takes part in its warp's sums
  const int lane = threadIdx.x % kLanes;
  const int16_t* x = p.x + unit * p.channels;
  const int16_t* rotation = p.rotations + unit / p.heads % p.tokens * p.channels;
  const int64_t packs = p.channels / (2 * kPairs);
  Pair pairs[kPairs];
  unsigned long long sum = 0;
  for (int64_t i = lane; i < packs; i += kLanes) {
    turn<kPairs>(x, rotation, i, pairs);
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      sum += uint64_t{fixed_point::squared(pairs[j].even)} + fixed_point::squared(pairs[j].odd);
    }
  }
  for (int offset = kLanes / 2; offset > 0; offset /= 2) {
    sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  }
  if (own >= units) {
    return;
  }
  const fixed_point::InverseNorm inverse = fixed_point::inverse_norm(sum, kUnitGain);
  for (int64_t i = lane; i < packs; i += kLanes) {
    turn<kPairs>(x, rotation, i, pairs);
    Pack<int8_t, 2 * kPairs> result;
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      const int32_t even = fixed_point::normalized(pairs[j].even, inverse);
      const int32_t odd = fixed_point::normalized(pairs[j].odd, inverse);
      result.value[2 * j] = static_cast<int8_t>(fixed_point::to_int8(even));
      result.value[2 * j + 1] = static_cast<int8_t>(fixed_point::to_int8(odd));
    }
    if constexpr (kPairs == 1) {
      p.out[unit * p.channels + 2 * i] = result.value[0];
      p.out[unit * p.channels + 2 * i + 1] = result.value[1];
    } else {
      store_pack<2 * kPairs>(p.out + unit * p.channels, i, result);
    }
  }
}

}  // namespace

Status integer_rotate_normalize_cuda(const RotateNormalize& problem, int64_t rows, Stream stream) {
  const int64_t units = rows * problem.heads;
  const bool packed =
      fits_packs<int16_t>(problem.channels, problem.x, problem.rotations, problem.out);
  const int64_t lanes = packed ? kPackLanes : kWarpSize;
  const auto kernel = packed ? integer_rotate_normalize_kernel<kPackPairs, kPackLanes>
                             : integer_rotate_normalize_kernel<1, kWarpSize>;
  return start({ceil_div(units * lanes, kThreads), kThreads, stream}, kernel, problem, units);
}

}  // namespace genaccel::integer
