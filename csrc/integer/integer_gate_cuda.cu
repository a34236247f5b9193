// SPDX-License-Identifier: Apache-2.0
// A thread owns 16 bytes of the result, and reads as many gates and values.
#include <cuda_runtime.h>

#include "common/integer.h"
#include "common/launch.cuh"
#include "common/pack.cuh"
#include "integer/integer_gate.h"

namespace genaccel::integer {
namespace {

constexpr int kThreads = 256;

// kWidth divides the channels, or is 1.
template <int kWidth>
__global__ void __launch_bounds__(kThreads) integer_gate_kernel(Gate p, int64_t count) {
  __shared__ int16_t table[kTableSize];  // lanes look up different entries
  for (int i = threadIdx.x; i < kTableSize; i += kThreads) {
    table[i] = p.table[i];
  }
  __syncthreads();
  const int64_t pack = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t i = pack * kWidth;
  if (i >= count) {
    return;
  }
  const int8_t* gate = p.x + i / p.channels * 2 * p.channels + i % p.channels;
  const auto gates = load_pack<kWidth>(gate, 0);
  const auto values = load_pack<kWidth>(gate + p.channels, 0);
  Pack<int8_t, kWidth> result;
#pragma unroll
  for (int j = 0; j < kWidth; ++j) {
    result.value[j] = gated(table[gates.value[j] + kTableSize / 2], values.value[j], p.shift);
  }
  store_pack<kWidth>(p.out, pack, result);
}

}  // namespace

Status integer_gate_cuda(const Gate& problem, int64_t rows, Stream stream) {
  const int64_t count = rows * problem.channels;
  const bool packed = fits_packs<int8_t>(problem.channels, problem.x, problem.out);
  const int64_t threads = packed ? count / kPackWidth<int8_t> : count;
  const auto kernel = packed ? integer_gate_kernel<kPackWidth<int8_t>> : integer_gate_kernel<1>;
  return start({ceil_div(threads, kThreads), kThreads, stream}, kernel, problem, count);
}

}  // namespace genaccel::integer
