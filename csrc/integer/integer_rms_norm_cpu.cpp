// SPDX-License-Identifier: Apache-2.0
// Plain loops, which the compiler turns into vectors of each instruction set.
#include <vector>

#include "common/simd.h"
#include "integer/integer_rms_norm.h"

namespace genaccel::integer {
namespace {

struct RmsNormRows {
  template <typename Isa>
  GENACCEL_HOST_DEVICE static void run(const RmsNorm* problem, int32_t* row, int64_t begin,
                                       int64_t end) {
    const RmsNorm p = *problem;
    for (int64_t r = begin; r < end; ++r) {
      const int32_t* x = p.x + r * p.channels;
      int8_t* out = p.out + r * p.channels;
      uint32_t bits = 0;
      // A copy: were an element larger afterwards, its square would be too large.
      __builtin_memcpy(row, x, p.channels * sizeof(int32_t));
      for (int64_t c = 0; c < p.channels; ++c) {
        bits |= magnitude(row[c]);
      }
      const int shift = row_shift(bits);
      uint64_t sum = 0;
      for (int64_t c = 0; c < p.channels; ++c) {
        row[c] = shifted(row[c], shift);
        sum += fixed_point::squared(row[c]);
      }
      const fixed_point::InverseNorm inverse = inverse_rms(sum, p.epsilon, shift, p.gain);
      for (int64_t c = 0; c < p.channels; ++c) {
        out[c] =
            static_cast<int8_t>(fixed_point::to_int8(fixed_point::normalized(row[c], inverse)));
      }
    }
  }
};

}  // namespace

void integer_rms_norm_cpu(const RmsNorm& problem, int64_t begin, int64_t end) {
  std::vector<int32_t> row(problem.channels);
  simd::run<RmsNormRows>(&problem, row.data(), begin, end);
}

}  // namespace genaccel::integer
