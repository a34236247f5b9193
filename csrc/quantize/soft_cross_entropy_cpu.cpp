// SPDX-License-Identifier: Apache-2.0
// Soft cross-entropy on the CPU: scores of a tile of code words for 4 rows, then their maxima,
// exponentials and sums, as in flash attention.
#include <cmath>

#include "common/half.h"
#include "common/simd.h"
#include "quantize/code_tiles_shared.h"
#include "quantize/soft_cross_entropy.h"

namespace genaccel::quantize {
namespace {

using code_tiles::kPanel;
using code_tiles::kRows;
using code_tiles::kTile;

template <typename V>
GENACCEL_HOST_DEVICE V larger(V a, V b) {
  return a > b ? a : b;
}

// The sums of a row so far, relative to its largest score and logit so far.
template <typename T>
struct RunningRow {
  using V = simd::Vector<T>;
  V soft_sum = {};
  V logit_sum = {};
  V weighted = {};  // sum e^(scale (score - best)) t
  T best = -static_cast<T>(INFINITY);
  T largest = soft_codes::lowest<T>();
  int64_t index = 0;

  // Adds `size` code words from `first`, of which `count` exist.
  template <typename Isa, typename Z>
  GENACCEL_HOST_DEVICE void add(const T* score, const Z* logits, int64_t first, int size,
                                int64_t count, T scale) {
    constexpr int lanes = simd::kLanes<T>;
    constexpr T fill = soft_codes::lowest<T>();
    V best_lanes = V{} - static_cast<T>(INFINITY);
    V largest_lanes = V{} + fill;
    for (int k = 0; k < size; k += lanes) {
      best_lanes = larger(simd::load<Isa>(score + k), best_lanes);
      largest_lanes = larger(simd::load_filled<Isa>(logits + k, count - k, fill), largest_lanes);
    }
    const T tile_best = simd::largest_of_lanes<T>(best_lanes);
    if (tile_best > best) {  // strict: the lower index keeps a tie
      int k = 0;
      while (score[k] != tile_best) {
        ++k;
      }
      index = first + k;
      const T shrink = std::exp((best - tile_best) * scale);
      soft_sum *= shrink;
      weighted *= shrink;
      best = tile_best;
    }
    const T tile_largest = simd::largest_of_lanes<T>(largest_lanes);
    if (tile_largest > largest) {
      logit_sum *= std::exp(largest - tile_largest);
      weighted += soft_sum * (largest - tile_largest);
      largest = tile_largest;
    }
    for (int k = 0; k < size; k += lanes) {
      const V t = simd::load_filled<Isa>(logits + k, count - k, fill) - largest;
      const V p = simd::exp_of_nonpositive<T>((simd::load<Isa>(score + k) - best) * scale);
      soft_sum += p;
      weighted += p * t;
      logit_sum += simd::exp_of_nonpositive<T>(t);
    }
  }
};

template <typename T, typename Z>
struct Forward {
  template <typename Isa>
  GENACCEL_HOST_DEVICE static void run(const SoftCrossEntropy<T, Z>* problem, const T* packed,
                                       int64_t begin, int64_t end) {
    const code_tiles::Codes<T> codes(packed, problem->num_codes, problem->dim);
    const T scale = soft_codes::score_scale<T>(problem->temperature);
    code_tiles::Scores<T> scores;
    for (int64_t panel = begin; panel < end; panel += kPanel) {
      const int rows = static_cast<int>(end - panel < kPanel ? end - panel : kPanel);
      RunningRow<T> state[kPanel];
      for (int64_t first = 0; first < codes.padded; first += kTile<T>) {
        for (int i = 0; i < rows; i += kRows) {
          const int count = rows - i < kRows ? rows - i : kRows;
          code_tiles::score<Isa>(problem->features + (panel + i) * problem->dim, count, codes,
                                 first, scores);
          for (int r = 0; r < count; ++r) {
            state[i + r].template add<Isa>(
                scores.of[r], problem->logits + (panel + i + r) * problem->num_codes + first, first,
                codes.tile_size(first), problem->num_codes - first, scale);
          }
        }
      }
      for (int i = 0; i < rows; ++i) {
        T* out = problem->statistics + (panel + i) * soft_codes::kStatistics;
        out[soft_codes::kBestScore] = state[i].best;
        out[soft_codes::kSoftSum] = simd::sum_of_lanes<T>(state[i].soft_sum);
        out[soft_codes::kLargestLogit] = state[i].largest;
        out[soft_codes::kLogitSum] = simd::sum_of_lanes<T>(state[i].logit_sum);
        out[soft_codes::kMeanLogit] =
            simd::sum_of_lanes<T>(state[i].weighted) / out[soft_codes::kSoftSum];
        problem->rate[panel + i] =
            rate_in_bits(out[soft_codes::kLogitSum], out[soft_codes::kMeanLogit]);
        problem->indices[panel + i] = state[i].index;
      }
    }
  }
};

}  // namespace

template <typename T>
int64_t packed_soft_codes_size(int64_t num_codes, int64_t dim) {
  return code_tiles::packed_size<T>(num_codes, dim);
}

template <typename T>
void pack_soft_codes_cpu(const T* codebook, T* packed, int64_t num_codes, int64_t dim) {
  code_tiles::pack(codebook, packed, num_codes, dim);
}

template <typename T, typename Z>
void soft_cross_entropy_cpu(const SoftCrossEntropy<T, Z>& problem, const T* packed, int64_t begin,
                            int64_t end) {
  simd::run<Forward<T, Z>>(&problem, packed, begin, end);
}

template int64_t packed_soft_codes_size<float>(int64_t, int64_t);
template int64_t packed_soft_codes_size<double>(int64_t, int64_t);
template void pack_soft_codes_cpu<float>(const float*, float*, int64_t, int64_t);
template void pack_soft_codes_cpu<double>(const double*, double*, int64_t, int64_t);

#define GENACCEL_INSTANTIATE(T, Z)                                                             \
  template void soft_cross_entropy_cpu<T, Z>(const SoftCrossEntropy<T, Z>&, const T*, int64_t, \
                                             int64_t);
GENACCEL_INSTANTIATE(float, float)
GENACCEL_INSTANTIATE(float, Half)
GENACCEL_INSTANTIATE(float, BFloat16)
GENACCEL_INSTANTIATE(double, double)
#undef GENACCEL_INSTANTIATE

}  // namespace genaccel::quantize
