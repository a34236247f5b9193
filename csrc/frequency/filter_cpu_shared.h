// SPDX-License-Identifier: Apache-2.0
// The low-pass on vectors, a row of at most kColumns results at a time, from a ring of the 21 rows
// that it needs: all of it stays in the second-level cache. For *_cpu.cpp of this family only.
#pragma once

#include "common/simd.h"
#include "frequency/low_pass_shared.h"

namespace genaccel::frequency {

constexpr int kColumns = 512;  // whole blocks of vectors, of float and of double
// A row with its margins, up to the end of the last block.
constexpr int kPadded = kColumns + 2 * kRadius + 44;
template <typename A>
struct FilterMemory {
  A ring[kTaps][kPadded];
  A columns[kRank][kPadded];

  A* slot(int64_t row) { return ring[(row % kTaps + kTaps) % kTaps]; }
};

// Sums along columns, of the rows around `row`, for `count` results and their margins.
template <typename Isa, typename A>
GENACCEL_HOST_DEVICE void filter_columns(FilterMemory<A>& memory, const Taps<A>& taps, int64_t row,
                                         int64_t count) {
  using Vector = simd::Vector<A>;
  constexpr int lanes = simd::kLanes<A>;
  constexpr int kVectors = 3;
  const A* rows[kTaps];
  for (int i = 0; i < kTaps; ++i) {
    rows[i] = memory.slot(row - kRadius + i);
  }
  for (int64_t x = 0; x < count + 2 * kRadius; x += kVectors * lanes) {
    Vector sum[kRank][kVectors];
    for (int v = 0; v < kVectors; ++v) {
      const Vector middle = simd::load<Isa>(rows[kRadius] + x + v * lanes);
      for (int r = 0; r < kRank; ++r) {
        sum[r][v] = taps.column[r][0] * middle;
      }
    }
    for (int k = 1; k <= kRadius; ++k) {
      Vector pair[kVectors];
      for (int v = 0; v < kVectors; ++v) {
        pair[v] = simd::load<Isa>(rows[kRadius - k] + x + v * lanes) +
                  simd::load<Isa>(rows[kRadius + k] + x + v * lanes);
      }
      for (int r = 0; r < kRank; ++r) {
        for (int v = 0; v < kVectors; ++v) {
          sum[r][v] += taps.column[r][k] * pair[v];
        }
      }
    }
    for (int r = 0; r < kRank; ++r) {
      for (int v = 0; v < kVectors; ++v) {
        simd::store<Isa>(memory.columns[r] + x + v * lanes, sum[r][v]);
      }
    }
  }
}

// Sums along rows of those; writes whole blocks of vectors.
template <typename Isa, typename A>
GENACCEL_HOST_DEVICE void filter_rows(const FilterMemory<A>& memory, const Taps<A>& taps, A* out,
                                      int64_t count) {
  using Vector = simd::Vector<A>;
  constexpr int lanes = simd::kLanes<A>;
  constexpr int kVectors = 4;
  static_assert(kColumns % (kVectors * lanes) == 0, "a row is whole blocks");
  for (int64_t x = 0; x < count; x += kVectors * lanes) {
    Vector sum[kVectors] = {};
    for (int r = 0; r < kRank; ++r) {
      const A* middle = memory.columns[r] + x + kRadius;
      for (int v = 0; v < kVectors; ++v) {
        sum[v] += taps.row[r][0] * simd::load<Isa>(middle + v * lanes);
      }
      for (int k = 1; k <= kRadius; ++k) {
        for (int v = 0; v < kVectors; ++v) {
          sum[v] += taps.row[r][k] * (simd::load<Isa>(middle + v * lanes - k) +
                                      simd::load<Isa>(middle + v * lanes + k));
        }
      }
    }
    for (int v = 0; v < kVectors; ++v) {
      simd::store<Isa>(out + x + v * lanes, sum[v]);
    }
  }
}

}  // namespace genaccel::frequency
