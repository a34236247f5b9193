// SPDX-License-Identifier: Apache-2.0
// Three walks over a row, which stays in the first-level cache: mean, deviation, output.
#include "common/simd.h"
#include "tokens/gather_norm_modulate.h"

namespace genaccel::tokens {
namespace {

constexpr int kSums = 4;  // independent chains of additions: one has 4 cycles of latency a step

template <typename T>
struct NormRows {
  using A = Accumulate<T>;
  using Vector = simd::Vector<T>;
  static constexpr int64_t kLanes = simd::kLanes<T>;

  // Sum over the row of x, or of (x - mean)^2.
  template <typename Isa, bool kSquared>
  GENACCEL_HOST_DEVICE static A sum_of(const T* row, int64_t channels, A mean) {
    Vector sum[kSums] = {};
    int64_t c = 0;
    for (; c + kSums * kLanes <= channels; c += kSums * kLanes) {
      for (int s = 0; s < kSums; ++s) {
        const Vector value = simd::load<Isa>(row + c + s * kLanes);
        sum[s] += kSquared ? (value - mean) * (value - mean) : value;
      }
    }
    for (; c + kLanes <= channels; c += kLanes) {
      const Vector value = simd::load<Isa>(row + c);
      sum[0] += kSquared ? (value - mean) * (value - mean) : value;
    }
    A total = simd::sum_of_lanes<T>((sum[0] + sum[1]) + (sum[2] + sum[3]));
    for (; c < channels; ++c) {
      const A value = to_float(row[c]);
      total += kSquared ? (value - mean) * (value - mean) : value;
    }
    return total;
  }

  template <typename Isa>
  GENACCEL_HOST_DEVICE static void run(const T* x, const int64_t* index, const T* shift,
                                       const T* scale, T* out, int64_t begin, int64_t end,
                                       GatherShape shape, double epsilon) {
    const int64_t channels = shape.channels;
    for (int64_t row = begin; row < end; ++row) {
      const int64_t sample = row / shape.selected;
      const T* in = x + (sample * shape.tokens + index[row]) * channels;
      const T* add = shift + sample * shape.shift_stride;
      const T* multiply = scale + sample * shape.scale_stride;
      T* to = out + row * channels;

      const A mean = sum_of<Isa, false>(in, channels, A(0)) / static_cast<A>(channels);
      const A inverse = inverse_deviation(sum_of<Isa, true>(in, channels, mean), channels,
                                          static_cast<A>(epsilon));
      int64_t c = 0;
      for (; c + kLanes <= channels; c += kLanes) {
        simd::store<Isa>(
            to + c, norm_modulated(simd::load<Isa>(in + c), mean, inverse, simd::load<Isa>(add + c),
                                   simd::load<Isa>(multiply + c)));
      }
      for (; c < channels; ++c) {
        to[c] = from_float<T>(norm_modulated(to_float(in[c]), mean, inverse, to_float(add[c]),
                                             to_float(multiply[c])));
      }
    }
  }
};

}  // namespace

template <typename T>
void gather_norm_modulate_cpu(const T* x, const int64_t* index, const T* shift, const T* scale,
                              T* out, int64_t begin, int64_t end, GatherShape shape,
                              double epsilon) {
  simd::run<NormRows<T>>(x, index, shift, scale, out, begin, end, shape, epsilon);
}

#define GENACCEL_INSTANTIATE(T)                                                               \
  template void gather_norm_modulate_cpu<T>(const T*, const int64_t*, const T*, const T*, T*, \
                                            int64_t, int64_t, GatherShape, double);
GENACCEL_INSTANTIATE(float)
GENACCEL_INSTANTIATE(double)
GENACCEL_INSTANTIATE(Half)
GENACCEL_INSTANTIATE(BFloat16)
#undef GENACCEL_INSTANTIATE

}  // namespace genaccel::tokens
