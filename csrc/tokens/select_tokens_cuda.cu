// SPDX-License-Identifier: Apache-2.0
// One block per row. The cut between selected and other keys comes from a radix search, 8 bits a
// round, over keys in shared memory; then one walk in index order writes, so nothing is sorted. The
// input is a few kilobytes a row: what counts is the number of dependent rounds, not bytes.
#include <cuda_runtime.h>

#include <cub/block/block_scan.cuh>

#include "common/integer.h"
#include "common/launch.cuh"
#include "tokens/select_tokens.h"

namespace genaccel::tokens {
namespace {

constexpr int kThreads = 256;
// Blocks that a multiprocessor holds at least: for more of them the compiler spills registers.
constexpr int kResident = 4;
constexpr int kDigitBits = 8;
constexpr int kBins = 1 << kDigitBits;
constexpr int kStagedTokens = 8192;  // 32 KiB of keys; longer rows are read again in every round
static_assert(kBins == kThreads, "each thread owns a bin");

using Scan = cub::BlockScan<uint32_t, kThreads>;

__global__ void __launch_bounds__(kThreads, kResident)
    select_tokens_kernel(const float* __restrict__ score, int64_t* __restrict__ index, int64_t rows,
                         int64_t groups, int tokens, int selected) {
  extern __shared__ uint32_t staged[];
  __shared__ uint32_t histogram[kBins];
  __shared__ typename Scan::TempStorage scratch;
  __shared__ uint32_t shared_digit;
  __shared__ uint32_t shared_left;
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t row = blockIdx.x;
  const bool is_staged = tokens <= kStagedTokens;

  auto read_key = [&](int i) {
    return ordered_key(summed_score(score + row * tokens + i, groups, rows * tokens));
  };
  if (is_staged) {
    for (int i = thread; i < tokens; i += kThreads) {
      staged[i] = read_key(i);  // each thread reads back only what it wrote
    }
  }
  auto key_at = [&](int i) { return is_staged ? staged[i] : read_key(i); };

  // cut: the digits found so far of the selected-th largest key; left: its rank among the keys that
  // share them.
  uint32_t cut = 0;
  uint32_t mask = 0;
  uint32_t left = static_cast<uint32_t>(selected);
  for (int shift = 32 - kDigitBits; shift >= 0; shift -= kDigitBits) {
    histogram[thread] = 0;
    __syncthreads();
    for (int first = 0; first < tokens; first += kThreads) {
      const int i = first + thread;
      uint32_t bin = kBins;  // counts nowhere
      if (i < tokens) {
        const uint32_t key = key_at(i);
        bin = (key & mask) == cut ? (key >> shift) % kBins : kBins;
      }
      // Scores share exponents: without this, most lanes would queue for one bin.
      const uint32_t peers = __match_any_sync(0xffffffffu, bin);
      if (bin < kBins && thread % 32 == __ffs(static_cast<int>(peers)) - 1) {
        atomicAdd(&histogram[bin], static_cast<uint32_t>(__popc(peers)));
      }
    }
    __syncthreads();
    const int digit = kBins - 1 - thread;
    const uint32_t count = histogram[digit];
    uint32_t above;
    Scan(scratch).ExclusiveSum(count, above);
    if (above < left && above + count >= left) {  // one thread
      shared_digit = static_cast<uint32_t>(digit);
      shared_left = left - above;
    }
    __syncthreads();
    cut |= shared_digit << shift;
    left = shared_left;
    mask |= static_cast<uint32_t>(kBins - 1) << shift;
  }

  // `left` keys that equal the cut are taken, the first ones.
  uint32_t above_before = 0;
  uint32_t ties_before = 0;
  for (int first = 0; first < tokens; first += kThreads) {
    const int i = first + thread;
    const uint32_t key = i < tokens ? key_at(i) : 0;
    const bool above = i < tokens && key > cut;
    const bool tie = i < tokens && key == cut;
    uint32_t rank;  // two counters of 16 bits, each at most kThreads
    uint32_t total;
    Scan(scratch).ExclusiveSum((above ? 1u : 0u) | (tie ? 0x10000u : 0u), rank, total);
    const uint32_t ties = ties_before + (rank >> 16);
    if (above || (tie && ties < left)) {
      const uint32_t position = above_before + (rank & 0xffffu) + (ties < left ? ties : left);
      // Always within, unless somebody wrote other scores meanwhile.
      for (int64_t group = 0; position < static_cast<uint32_t>(selected) && group < groups;
           ++group) {
        index[(group * rows + row) * selected + position] = i;
      }
    }
    above_before += total & 0xffffu;
    ties_before += total >> 16;
    __syncthreads();  // before scratch is used again
  }
}

}  // namespace

Status select_tokens_cuda(const float* score, int64_t* index, int64_t rows, int64_t groups,
                          int64_t tokens, int64_t selected, Stream stream) {
  if (selected == 0) {
    return nullptr;
  }
  const int64_t shared_bytes =
      tokens <= kStagedTokens ? tokens * static_cast<int64_t>(sizeof(uint32_t)) : 0;
  return start({rows, kThreads, stream, 1, shared_bytes}, select_tokens_kernel, score, index, rows,
               groups, static_cast<int>(tokens), static_cast<int>(selected));
}

}  // namespace genaccel::tokens
