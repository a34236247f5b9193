// SPDX-License-Identifier: Apache-2.0
#include "common/simd.h"
#include "tokens/token_scores.h"

namespace genaccel::tokens {
namespace {

constexpr int kSums = 4;  // independent chains of additions: one has 4 cycles of latency a step

template <typename T, bool kHasReference>
struct ScoreRows {
  template <typename Isa>
  GENACCEL_HOST_DEVICE static void run(const T* x, const T* reference, float* score, int64_t begin,
                                       int64_t end, int64_t channels) {
    constexpr int64_t lanes = simd::kLanes<T>;
    for (int64_t row = begin; row < end; ++row) {
      const T* a = x + row * channels;
      const T* b = kHasReference ? reference + row * channels : nullptr;
      simd::Vector<T> sum[kSums] = {};
      int64_t c = 0;
      for (; c + kSums * lanes <= channels; c += kSums * lanes) {
        for (int s = 0; s < kSums; ++s) {
          simd::Vector<T> value = simd::load<Isa>(a + c + s * lanes);
          if constexpr (kHasReference) {
            value -= simd::load<Isa>(b + c + s * lanes);
          }
          sum[s] += value;
        }
      }
      for (; c < channels; c += lanes) {
        const int64_t count = channels - c < lanes ? channels - c : lanes;
        sum[0] += simd::load_part<Isa>(a + c, count);
        if constexpr (kHasReference) {
          sum[0] -= simd::load_part<Isa>(b + c, count);
        }
      }
      score[row] =
          score_of_sum(simd::sum_of_lanes<T>((sum[0] + sum[1]) + (sum[2] + sum[3])), channels);
    }
  }
};

}  // namespace

template <typename T>
void token_scores_cpu(const T* x, const T* reference, float* score, int64_t begin, int64_t end,
                      int64_t channels) {
  if (reference == nullptr) {
    simd::run<ScoreRows<T, false>>(x, reference, score, begin, end, channels);
  } else {
    simd::run<ScoreRows<T, true>>(x, reference, score, begin, end, channels);
  }
}

#define GENACCEL_INSTANTIATE(T) \
  template void token_scores_cpu<T>(const T*, const T*, float*, int64_t, int64_t, int64_t);
GENACCEL_INSTANTIATE(float)
GENACCEL_INSTANTIATE(double)
GENACCEL_INSTANTIATE(Half)
GENACCEL_INSTANTIATE(BFloat16)
#undef GENACCEL_INSTANTIATE

}  // namespace genaccel::tokens
