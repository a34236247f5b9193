// SPDX-License-Identifier: Apache-2.0
// One block per row; weights are made twice, which is cheaper than keeping them.
#include <cuda_runtime.h>

#include <cub/block/block_reduce.cuh>
#include <cub/block/block_scan.cuh>

#include "common/launch.cuh"
#include "integer/integer_frequencies.h"

namespace genaccel::integer {
namespace {

constexpr int kThreads = 128;

using ReduceLargest = cub::BlockReduce<int32_t, kThreads>;
using Reduce = cub::BlockReduce<uint32_t, kThreads>;
using Scan = cub::BlockScan<uint32_t, kThreads>;

struct Larger {
  __device__ int32_t operator()(int32_t a, int32_t b) const { return a > b ? a : b; }
};

__device__ uint32_t weight_of(int32_t logit, int32_t largest, int fraction_bits) {
  return logit_weight(static_cast<uint32_t>(largest), static_cast<uint32_t>(logit), fraction_bits);
}

__global__ void __launch_bounds__(kThreads) integer_frequencies_kernel(Frequencies p) {
  __shared__ union {
    typename ReduceLargest::TempStorage largest;
    typename Reduce::TempStorage sum;
    typename Scan::TempStorage scan;
  } scratch;
  __shared__ int32_t shared_largest;
  __shared__ uint32_t shared_sum;
  const int64_t row = blockIdx.x;
  const int64_t entries = p.entries();
  const bool members = p.group != nullptr;
  const int64_t count = members ? p.group_size : p.symbols;
  const int64_t span = members ? 1 : p.group_size;
  const int32_t* logits = p.row_logits(row);

  int32_t largest = INT32_MIN;
  for (int64_t s = threadIdx.x; s < count; s += kThreads) {
    largest = Larger()(largest, logits[s]);
  }
  largest = ReduceLargest(scratch.largest).Reduce(largest, Larger());
  if (threadIdx.x == 0) {
    shared_largest = largest;
  }
  __syncthreads();
  largest = shared_largest;

  uint32_t sum = 0;
  for (int64_t s = threadIdx.x; s < count; s += kThreads) {
    sum += weight_of(logits[s], largest, p.fraction_bits);
  }
  sum = Reduce(scratch.sum).Sum(sum);
  if (threadIdx.x == 0) {
    shared_sum = sum;
  }
  __syncthreads();
  const uint32_t weight_sum = shared_sum;

  int32_t* out = p.out + row * (entries + 1);
  uint32_t before = 0;
  for (int64_t first = 0; first < entries; first += kThreads) {
    const int64_t e = first + threadIdx.x;
    uint32_t weight = 0;
    for (int64_t s = e * span; e < entries && s < (e + 1) * span; ++s) {
      weight += weight_of(logits[s], largest, p.fraction_bits);
    }
    uint32_t preceding;
    uint32_t all;
    Scan(scratch.scan).ExclusiveSum(weight, preceding, all);
    __syncthreads();  // before scratch is used again
    if (e < entries) {
      out[e] = start_slot(e, before + preceding, weight_sum, entries);
    }
    before += all;
  }
  if (threadIdx.x == 0) {
    out[entries] = kTotal;
  }
}

}  // namespace

Status integer_frequencies_cuda(const Frequencies& problem, int64_t rows, Stream stream) {
  return start({rows, kThreads, stream}, integer_frequencies_kernel, problem);
}

}  // namespace genaccel::integer
