// SPDX-License-Identifier: Apache-2.0
// One warp per row, 16 bytes a lane. Integers sum to the same in any order.
#include <cuda_runtime.h>

#include "common/integer.h"
#include "common/launch.cuh"
#include "common/pack.cuh"
#include "common/reduce.cuh"
#include "integer/integer_rms_norm.h"

namespace genaccel::integer {
namespace {

constexpr int kThreads = 128;
constexpr int kRowsPerBlock = kThreads / kWarpSize;

// kWidth divides the channels, or is 1.
template <int kWidth>
__global__ void __launch_bounds__(kThreads) integer_rms_norm_kernel(RmsNorm p, int64_t rows) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kRowsPerBlock + threadIdx.x / kWarpSize;
  const int lane = threadIdx.x % kWarpSize;
  if (row >= rows) {
    return;  // whole warps leave together
  }
  const int32_t* x = p.x + row * p.channels;
  const int64_t packs = p.channels / kWidth;
  uint32_t bits = 0;
  for (int64_t i = lane; i < packs; i += kWarpSize) {
    const auto pack = load_pack<kWidth>(x, i);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      bits |= magnitude(pack.value[j]);
    }
  }
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    bits |= __shfl_xor_sync(0xffffffffu, bits, offset);
  }
  const int shift = row_shift(bits);
  unsigned long long sum = 0;
  for (int64_t i = lane; i < packs; i += kWarpSize) {
    const auto pack = load_pack<kWidth>(x, i);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      const int32_t value = shifted(pack.value[j], shift);
      sum += fixed_point::squared(value);
    }
  }
  const fixed_point::InverseNorm inverse = inverse_rms(warp_sum(sum), p.epsilon, shift, p.gain);
  for (int64_t i = lane; i < packs; i += kWarpSize) {
    const auto pack = load_pack<kWidth>(x, i);
    Pack<int8_t, kWidth> result;
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      result.value[j] = static_cast<int8_t>(
          fixed_point::to_int8(fixed_point::normalized(shifted(pack.value[j], shift), inverse)));
    }
    store_pack<kWidth>(p.out + row * p.channels, i, result);
  }
}

}  // namespace

Status integer_rms_norm_cuda(const RmsNorm& problem, int64_t rows, Stream stream) {
  const auto kernel = fits_packs<int32_t>(problem.channels, problem.x, problem.out)
                          ? integer_rms_norm_kernel<kPackWidth<int32_t>>
                          : integer_rms_norm_kernel<1>;
  return start({ceil_div(rows, kRowsPerBlock), kThreads, stream}, kernel, problem, rows);
}

}  // namespace genaccel::integer
