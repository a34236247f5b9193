// SPDX-License-Identifier: Apache-2.0
// Blocks of 4 vectors stay in registers while the terms pass.
#include "common/simd.h"
#include "forecast/predict_add.h"

namespace genaccel::forecast {
namespace {

constexpr int kVectors = 4;

template <typename T>
struct PredictElements {
  using Vector = simd::Vector<T>;

  template <typename Isa>
  GENACCEL_HOST_DEVICE static void run(const Prediction<T>* prediction, int64_t begin,
                                       int64_t end) {
    constexpr int64_t lanes = simd::kLanes<T>;
    const Prediction<T> p = *prediction;
    int64_t i = begin;
    for (; i + kVectors * lanes <= end; i += kVectors * lanes) {
      Vector sum[kVectors];
      for (int v = 0; v < kVectors; ++v) {
        sum[v] = Vector{} + p.offset;
        if (p.base != nullptr) {
          sum[v] += simd::load<Isa>(p.base + i + v * lanes);
        }
      }
      for (int term = 0; term < p.terms; ++term) {
        const T* from = p.history[term] + i;
        for (int v = 0; v < kVectors; ++v) {
          sum[v] = with_term(sum[v], p.coefficients[term], simd::load<Isa>(from + v * lanes));
        }
      }
      for (int v = 0; v < kVectors; ++v) {
        simd::store<Isa>(p.out + i + v * lanes, sum[v]);
      }
    }
    for (; i < end; ++i) {
      Accumulate<T> sum = p.offset;
      if (p.base != nullptr) {
        sum += to_float(p.base[i]);
      }
      for (int term = 0; term < p.terms; ++term) {
        sum = with_term(sum, p.coefficients[term], to_float(p.history[term][i]));
      }
      p.out[i] = from_float<T>(sum);
    }
  }
};

}  // namespace

template <typename T>
void predict_add_cpu(const Prediction<T>& prediction, int64_t begin, int64_t end) {
  simd::run<PredictElements<T>>(&prediction, begin, end);
}

#define GENACCEL_INSTANTIATE(T) \
  template void predict_add_cpu<T>(const Prediction<T>&, int64_t, int64_t);
GENACCEL_INSTANTIATE(float)
GENACCEL_INSTANTIATE(double)
GENACCEL_INSTANTIATE(Half)
GENACCEL_INSTANTIATE(BFloat16)
#undef GENACCEL_INSTANTIATE

}  // namespace genaccel::forecast
