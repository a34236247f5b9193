// SPDX-License-Identifier: Apache-2.0
// One block per row. Instead of sorting remainders, the cut between those that get a slot more and
// those that do not is found by bisection over their values; the result is the same by definition.
#include <cuda_runtime.h>

#include <cub/block/block_reduce.cuh>
#include <cub/block/block_scan.cuh>

#include "common/launch.cuh"
#include "entropy/pmf_to_cdf.h"

namespace genaccel::entropy {
namespace {

constexpr int kThreads = 256;
// Blocks that a multiprocessor holds at least: for more of them the compiler spills registers.
constexpr int kResident = 4;

using Reduce = cub::BlockReduce<uint64_t, kThreads>;
using ReduceDouble = cub::BlockReduce<double, kThreads>;
using Scan = cub::BlockScan<uint64_t, kThreads>;

union Scratch {
  typename Reduce::TempStorage reduce;
  typename ReduceDouble::TempStorage reduce_double;
  typename Scan::TempStorage scan;
};

struct Larger {
  __device__ double operator()(double a, double b) const { return a > b ? a : b; }
};

// Sum over the block, known to every thread.
__device__ uint64_t block_sum(uint64_t value, Scratch& scratch, uint64_t& shared) {
  const uint64_t sum = Reduce(scratch.reduce).Sum(value);
  if (threadIdx.x == 0) {
    shared = sum;
  }
  __syncthreads();
  const uint64_t result = shared;
  __syncthreads();  // before scratch and shared are used again
  return result;
}

template <typename T>
__global__ void __launch_bounds__(kThreads, kResident)
    pmf_to_cdf_kernel(const T* __restrict__ pmf, int32_t* __restrict__ cdf,
                      uint64_t* __restrict__ remainders, int64_t symbols, int precision) {
  __shared__ Scratch scratch;
  __shared__ uint64_t shared;
  __shared__ double shared_largest;
  const T* p = pmf + blockIdx.x * symbols;
  int32_t* out = cdf + blockIdx.x * (symbols + 1);
  uint64_t* remainder = remainders + blockIdx.x * symbols;
  const uint64_t free_slots = (uint64_t{1} << precision) - static_cast<uint64_t>(symbols);

  double largest = 0;
  for (int64_t s = threadIdx.x; s < symbols; s += kThreads) {
    largest = Larger()(largest, sanitized(static_cast<double>(p[s])));
  }
  largest = ReduceDouble(scratch.reduce_double).Reduce(largest, Larger());
  if (threadIdx.x == 0) {
    shared_largest = largest;
  }
  __syncthreads();
  largest = shared_largest;

  uint64_t sum = 0;
  for (int64_t s = threadIdx.x; s < symbols; s += kThreads) {
    sum += fixed_point(static_cast<double>(p[s]), largest, precision);
  }
  const uint64_t weight_sum = block_sum(sum, scratch, shared);

  uint64_t whole = 0;
  for (int64_t s = threadIdx.x; s < symbols; s += kThreads) {
    const uint64_t weight = fixed_point(static_cast<double>(p[s]), largest, precision);
    const Share share = share_of(weight, weight_sum, free_slots);
    remainder[s] = share.remainder;
    out[s + 1] = static_cast<int32_t>(1 + share.whole);
    whole += share.whole;
  }
  const uint64_t left_over = free_slots - block_sum(whole, scratch, shared);

  // The largest cut with at least left_over remainders at or above it; remainders are below
  // weight_sum.
  uint64_t cut = 0;
  uint64_t above = weight_sum;
  while (above - cut > 1) {
    const uint64_t middle = cut + (above - cut) / 2;
    uint64_t count = 0;
    for (int64_t s = threadIdx.x; s < symbols; s += kThreads) {
      count += remainder[s] >= middle;
    }
    if (block_sum(count, scratch, shared) >= left_over) {
      cut = middle;
    } else {
      above = middle;
    }
  }
  uint64_t higher = 0;
  for (int64_t s = threadIdx.x; s < symbols; s += kThreads) {
    higher += remainder[s] > cut;
  }
  const uint64_t ties_taken = left_over - block_sum(higher, scratch, shared);

  uint64_t ties_before = 0;
  uint64_t slots_before = 0;
  for (int64_t first = 0; first < symbols; first += kThreads) {
    const int64_t s = first + threadIdx.x;
    const bool inside = s < symbols;
    const uint64_t tie = inside && remainder[s] == cut;
    uint64_t rank;
    uint64_t ties;
    Scan(scratch.scan).ExclusiveSum(tie, rank, ties);
    __syncthreads();
    uint64_t slots = 0;
    if (inside) {
      const bool taken = remainder[s] > cut || (tie && ties_before + rank < ties_taken);
      slots = static_cast<uint64_t>(out[s + 1]) + (taken && left_over > 0);
    }
    uint64_t cumulative;
    uint64_t total;
    Scan(scratch.scan).InclusiveSum(slots, cumulative, total);
    __syncthreads();
    if (inside) {
      out[s + 1] = static_cast<int32_t>(slots_before + cumulative);
    }
    ties_before += ties;
    slots_before += total;
  }
  if (threadIdx.x == 0) {
    out[0] = 0;
  }
}

}  // namespace

template <typename T>
Status pmf_to_cdf_cuda(const T* pmf, int32_t* cdf, uint64_t* remainders, int64_t rows,
                       int64_t symbols, int precision, Stream stream) {
  return start({rows, kThreads, stream}, pmf_to_cdf_kernel<T>, pmf, cdf, remainders, symbols,
               precision);
}

template Status pmf_to_cdf_cuda<float>(const float*, int32_t*, uint64_t*, int64_t, int64_t, int,
                                       Stream);
template Status pmf_to_cdf_cuda<double>(const double*, int32_t*, uint64_t*, int64_t, int64_t, int,
                                        Stream);

}  // namespace genaccel::entropy
