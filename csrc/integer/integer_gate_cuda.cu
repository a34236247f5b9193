// SPDX-License-Identifier: Apache-2.0
#include <cuda_runtime.h>

#include "common/integer.h"
#include "common/launch.cuh"
#include "integer/integer_gate.h"

namespace genaccel::integer {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) integer_gate_kernel(Gate p, int64_t count) {
  __shared__ int16_t table[kTableSize];  // lanes look up different entries
  for (int i = threadIdx.x; i < kTableSize; i += kThreads) {
    table[i] = p.table[i];
  }
  __syncthreads();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) {
    return;
  }
  const int8_t* gate = p.x + i / p.channels * 2 * p.channels + i % p.channels;
  p.out[i] = gated(table[*gate + kTableSize / 2], gate[p.channels], p.shift);
}

}  // namespace

Status integer_gate_cuda(const Gate& problem, int64_t rows, Stream stream) {
  const int64_t count = rows * problem.channels;
  if (count == 0) {
    return nullptr;
  }
  const auto blocks = static_cast<unsigned>(ceil_div(count, kThreads));
  integer_gate_kernel<<<blocks, kThreads, 0, stream>>>(problem, count);
  return launch_status();
}

}  // namespace genaccel::integer
