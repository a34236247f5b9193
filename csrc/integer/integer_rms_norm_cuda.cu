// SPDX-License-Identifier: Apache-2.0
// One warp per row. Integers sum to the same in any order.
#include <cuda_runtime.h>

#include "common/integer.h"
#include "common/launch.cuh"
#include "common/reduce.cuh"
#include "integer/integer_rms_norm.h"

namespace genaccel::integer {
namespace {

constexpr int kThreads = 128;
constexpr int kRowsPerBlock = kThreads / kWarpSize;

__global__ void __launch_bounds__(kThreads) integer_rms_norm_kernel(RmsNorm p, int64_t rows) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kRowsPerBlock + threadIdx.x / kWarpSize;
  const int lane = threadIdx.x % kWarpSize;
  if (row >= rows) {
    return;  // whole warps leave together
  }
  const int32_t* x = p.x + row * p.channels;
  uint32_t bits = 0;
  for (int64_t c = lane; c < p.channels; c += kWarpSize) {
    bits |= magnitude(x[c]);
  }
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    bits |= __shfl_xor_sync(0xffffffffu, bits, offset);
  }
  const int shift = row_shift(bits);
  unsigned long long sum = 0;
  for (int64_t c = lane; c < p.channels; c += kWarpSize) {
    const int32_t value = shifted(x[c], shift);
    sum += static_cast<uint32_t>(value * value);
  }
  const fixed_point::InverseNorm inverse = inverse_rms(warp_sum(sum), p.epsilon, shift, p.gain);
  for (int64_t c = lane; c < p.channels; c += kWarpSize) {
    p.out[row * p.channels + c] = static_cast<int8_t>(
        fixed_point::to_int8(fixed_point::normalized(shifted(x[c], shift), inverse)));
  }
}

}  // namespace

Status integer_rms_norm_cuda(const RmsNorm& problem, int64_t rows, Stream stream) {
  if (rows == 0) {
    return nullptr;
  }
  const auto blocks = static_cast<unsigned>(ceil_div(rows, kRowsPerBlock));
  integer_rms_norm_kernel<<<blocks, kThreads, 0, stream>>>(problem, rows);
  return launch_status();
}

}  // namespace genaccel::integer
