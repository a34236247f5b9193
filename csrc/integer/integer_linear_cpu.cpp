// SPDX-License-Identifier: Apache-2.0
// Outputs lie across the lanes: of 16 outputs the weights are packed by pairs of inputs, and a
// register tile of 4 rows by 16 outputs takes one pair after the other, so no sum has to be folded.
#include <algorithm>
#include <vector>

#include "common/integer.h"
#include "integer/integer_linear.h"
#include "integer/simd_shared.h"

namespace genaccel::integer {
namespace {

using simd::Ints;
using simd::Shorts;

constexpr int kRows = 4;
constexpr int kVectors = 2;  // 4 x 2 sums, 2 weights and 3 operands: of 16 registers
constexpr int kOutputs = kVectors * simd::kInts;
// Rows that share one packing of the weights; at 384 inputs they stay in second-level cache.
constexpr int64_t kPanel = 192;

// 16 outputs, saturated.
template <typename Isa>
GENACCEL_HOST_DEVICE void store_saturated(int32_t* to, Ints a, Ints b) {
  simd::store_as(to, a);
  simd::store_as(to + simd::kInts, b);
}
template <typename Isa>
GENACCEL_HOST_DEVICE void store_saturated(int16_t* to, Ints a, Ints b) {
  simd::store_as(to, simd::saturated_shorts<Isa>(a, b));
}
template <typename Isa>
GENACCEL_HOST_DEVICE void store_saturated(int8_t* to, Ints a, Ints b) {
  simd::store_as(to, simd::saturated_bytes<Isa>(simd::saturated_shorts<Isa>(a, b)));
}

template <typename T>
struct LinearRows {
  // packed [padded / 2, kVectors, 8, 2]: of each pair of inputs the weights of 16 outputs from
  // `first`; those that do not exist repeat the last.
  template <typename Isa>
  GENACCEL_HOST_DEVICE static void pack(const Linear<T>& p, int64_t first, int16_t* packed,
                                        int16_t* rows, int64_t padded) {
    for (int v = 0; v < kVectors; ++v) {
      for (int o = 0; o < simd::kInts; ++o) {
        const int64_t output = std::min(first + v * simd::kInts + o, p.outputs - 1);
        simd::widen<Isa>(p.weight + output * p.inputs, p.inputs, rows + o * padded, padded);
      }
      for (int64_t i = 0; i < padded; i += simd::kShorts) {
        Ints block[simd::kInts];
        for (int o = 0; o < simd::kInts; ++o) {
          block[o] = simd::load_as<Ints>(rows + o * padded + i);
        }
        simd::transpose(block);
        for (int pair = 0; pair < simd::kInts; ++pair) {
          simd::store_as(packed + ((i / 2 + pair) * kVectors + v) * simd::kShorts, block[pair]);
        }
      }
    }
  }

  template <typename Isa>
  GENACCEL_HOST_DEVICE static void tile(const Linear<T>& p, const int16_t* rows, int64_t row,
                                        int64_t count, const int16_t* packed, int64_t padded,
                                        const int32_t* bias, const int32_t* multiplier,
                                        int64_t first) {
    const int16_t* x[kRows];
    for (int r = 0; r < kRows; ++r) {
      x[r] = rows + (r < count ? r : 0) * padded;  // a short tile repeats its first row
    }
    Ints sum[kRows][kVectors] = {};
    for (int64_t i = 0; i < padded; i += 2) {
      Shorts w[kVectors];
      for (int v = 0; v < kVectors; ++v) {
        w[v] = simd::load_as<Shorts>(packed + i * kOutputs + v * simd::kShorts);
      }
      for (int r = 0; r < kRows; ++r) {
        const Shorts pair = simd::broadcast_pair(x[r] + i);
        for (int v = 0; v < kVectors; ++v) {
          sum[r][v] += simd::pair_dot<Isa>(pair, w[v]);
        }
      }
    }
    const auto factor = simd::load_as<Ints>(multiplier);
    const auto offset = simd::load_as<Ints>(bias);
    const auto next_factor = simd::load_as<Ints>(multiplier + simd::kInts);
    const auto next_offset = simd::load_as<Ints>(bias + simd::kInts);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      // The bias wraps around, as in with_bias.
      const Ints a = simd::scaled<Isa>(simd::wrapping_sum(sum[r][0], offset), factor, p.shift);
      const Ints b =
          simd::scaled<Isa>(simd::wrapping_sum(sum[r][1], next_offset), next_factor, p.shift);
      T* out = p.out + (row + r) * p.outputs + first;
      if (r < count && first + kOutputs <= p.outputs) {
        store_saturated<Isa>(out, a, b);
      } else if (r < count) {
        T values[kOutputs];
        store_saturated<Isa>(values, a, b);
        std::copy_n(values, p.outputs - first, out);
      }
    }
  }

  template <typename Isa>
  GENACCEL_HOST_DEVICE static void run(const Linear<T>* problem, int16_t* rows, int16_t* packed,
                                       int16_t* unpacked, int64_t padded, int64_t begin,
                                       int64_t end) {
    const Linear<T> p = *problem;
    for (int64_t panel = begin; panel < end; panel += kPanel) {
      const int64_t count = std::min(kPanel, end - panel);
      for (int64_t r = 0; r < count; ++r) {
        simd::widen<Isa>(p.x + (panel + r) * p.inputs, p.inputs, rows + r * padded, padded);
      }
      for (int64_t first = 0; first < p.outputs; first += kOutputs) {
        pack<Isa>(p, first, packed, unpacked, padded);
        int32_t bias[kOutputs];
        int32_t multiplier[kOutputs];
        for (int o = 0; o < kOutputs; ++o) {
          const int64_t output = std::min(first + o, p.outputs - 1);
          bias[o] = p.bias == nullptr ? 0 : p.bias[output];
          multiplier[o] = p.multiplier[output];
        }
        for (int64_t r = 0; r < count; r += kRows) {
          tile<Isa>(p, rows + r * padded, panel + r, std::min<int64_t>(kRows, count - r), packed,
                    padded, bias, multiplier, first);
        }
      }
    }
  }
};

}  // namespace

template <typename T>
void integer_linear_cpu(const Linear<T>& problem, int64_t begin, int64_t end) {
  const int64_t padded = ceil_div(problem.inputs, simd::kShorts) * simd::kShorts;
  const int64_t panel = std::min(kPanel, end - begin);
  std::vector<int16_t> scratch((panel + kOutputs + simd::kInts) * padded);
  int16_t* packed = scratch.data();
  int16_t* unpacked = packed + kOutputs * padded;
  simd::run<LinearRows<T>>(&problem, unpacked + simd::kInts * padded, packed, unpacked, padded,
                           begin, end);
}

template void integer_linear_cpu<int8_t>(const Linear<int8_t>&, int64_t, int64_t);
template void integer_linear_cpu<int16_t>(const Linear<int16_t>&, int64_t, int64_t);
template void integer_linear_cpu<int32_t>(const Linear<int32_t>&, int64_t, int64_t);

}  // namespace genaccel::integer
