// SPDX-License-Identifier: Apache-2.0
// The low-pass of this family: a symmetric filter of 21 x 21 taps as a sum of 4 products of a
// column and a row, so that it costs 8 passes of 21 taps instead of 441; and what lies beyond the
// edges.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace genaccel::frequency {

constexpr int kRadius = 10;
constexpr int kTaps = 2 * kRadius + 1;
constexpr int kReach = kRadius + 1;  // taps that differ: the middle one, and outwards
constexpr int kRank = 4;
// Rows that a CPU's thread should take at least, since it reads 20 more.
constexpr int64_t kRowsPerTask = 64;

template <typename A>
struct Taps {
  A column[kRank][kReach];
  A row[kRank][kReach];
};

// The line whose values stand for line i, of n: the opposite edge's, or those of a mirror that
// stands behind the last line. With either the filter is a symmetric matrix: its own adjoint.
GENACCEL_HOST_DEVICE int64_t line_of(int64_t i, int64_t n, bool periodic) {
  const int64_t period = periodic ? n : 2 * n;
  const int64_t rest = i % period;
  const int64_t line = rest < 0 ? rest + period : rest;
  return line < n ? line : period - 1 - line;
}

}  // namespace genaccel::frequency
