// SPDX-License-Identifier: Apache-2.0
// The low-pass of a tile by a block of threads: the tile and its margins in shared memory, then its
// columns' sums, then the rows' sums of those.
#pragma once

#include <cuda_runtime.h>

#include "common/half.h"
#include "frequency/low_pass_shared.h"

namespace genaccel::frequency {

constexpr int kThreads = 256;

template <typename A>
struct TileFilter {
  static constexpr int kSide = sizeof(A) == 8 ? 16 : 32;  // 37 and 32 KB of shared memory
  static constexpr int kWide = kSide + 2 * kRadius;
  static constexpr int kPerThread = kSide * kSide / kThreads;

  A values[kWide][kWide];
  A columns[kRank][kSide][kWide];

  // Fills the tile whose first place is (row, column): value(row, column) of places that exist.
  template <typename Value>
  __device__ __forceinline__ void fill(int64_t row, int64_t column, int64_t height, int64_t width,
                                       bool periodic, const Value& value) {
    for (int i = threadIdx.x; i < kWide * kWide; i += kThreads) {
      const int y = i / kWide;
      const int x = i % kWide;
      values[y][x] = value(line_of(row - kRadius + y, height, periodic),
                           line_of(column - kRadius + x, width, periodic));
    }
    __syncthreads();
  }

  // Of the place threadIdx.x + kThreads * i of the tile, what fill gave and its low-pass; for all
  // i. Ends with the tile free to be filled again.
  __device__ __forceinline__ void filter(const Taps<A>& taps, A (&value)[kPerThread],
                                         A (&low)[kPerThread]) {
    for (int i = threadIdx.x; i < kSide * kWide; i += kThreads) {
      const int y = i / kWide + kRadius;
      const int x = i % kWide;
      A sum[kRank];
#pragma unroll
      for (int r = 0; r < kRank; ++r) {
        sum[r] = taps.column[r][0] * values[y][x];
      }
#pragma unroll
      for (int k = 1; k <= kRadius; ++k) {
        const A pair = values[y - k][x] + values[y + k][x];
#pragma unroll
        for (int r = 0; r < kRank; ++r) {
          sum[r] += taps.column[r][k] * pair;
        }
      }
#pragma unroll
      for (int r = 0; r < kRank; ++r) {
        columns[r][y - kRadius][x] = sum[r];
      }
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
      const int place = threadIdx.x + kThreads * i;
      const int y = place / kSide;
      const int x = place % kSide + kRadius;
      A sum = 0;
#pragma unroll
      for (int r = 0; r < kRank; ++r) {
        sum += taps.row[r][0] * columns[r][y][x];
#pragma unroll
        for (int k = 1; k <= kRadius; ++k) {
          sum += taps.row[r][k] * (columns[r][y][x - k] + columns[r][y][x + k]);
        }
      }
      value[i] = values[y + kRadius][x];
      low[i] = sum;
    }
    __syncthreads();
  }
};

// Tiles of `planes` planes in a row, and the place of one of them.
template <typename A>
struct Tiling {
  int64_t down;
  int64_t across;

  Tiling(int64_t height, int64_t width)
      : down((height + TileFilter<A>::kSide - 1) / TileFilter<A>::kSide),
        across((width + TileFilter<A>::kSide - 1) / TileFilter<A>::kSide) {}

  __device__ __forceinline__ int64_t plane(int64_t tile) const { return tile / (down * across); }
  __device__ __forceinline__ int64_t row(int64_t tile) const {
    return tile / across % down * TileFilter<A>::kSide;
  }
  __device__ __forceinline__ int64_t column(int64_t tile) const {
    return tile % across * TileFilter<A>::kSide;
  }
};

}  // namespace genaccel::frequency
