// SPDX-License-Identifier: Apache-2.0
#include "common/simd.h"
#include "tokens/scatter_gated_residual.h"

namespace genaccel::tokens {
namespace {

template <typename T>
struct ScatterRows {
  template <typename Isa>
  GENACCEL_HOST_DEVICE static void run(const T* residual, T* cache, const T* rows,
                                       const int32_t* position, const T* gate, T* out,
                                       int64_t begin, int64_t end, ScatterShape shape) {
    constexpr int64_t lanes = simd::kLanes<T>;
    const int64_t channels = shape.channels;
    for (int64_t token = begin; token < end; ++token) {
      const int64_t sample = token / shape.tokens;
      const T* in = residual + token * channels;
      const T* factor = gate + sample * shape.gate_stride;
      T* kept = cache + token * channels;
      T* to = out + token * channels;
      const T* value = kept;
      if (position[token] >= 0) {
        value = rows + (sample * shape.selected + position[token]) * channels;
        __builtin_memcpy(kept, value, channels * static_cast<int64_t>(sizeof(T)));
      }
      int64_t c = 0;
      for (; c + lanes <= channels; c += lanes) {
        simd::store<Isa>(to + c,
                         gated_residual(simd::load<Isa>(in + c), simd::load<Isa>(factor + c),
                                        simd::load<Isa>(value + c)));
      }
      for (; c < channels; ++c) {
        to[c] =
            from_float<T>(gated_residual(to_float(in[c]), to_float(factor[c]), to_float(value[c])));
      }
    }
  }
};

}  // namespace

template <typename T>
void scatter_gated_residual_cpu(const T* residual, T* cache, const T* rows, const int32_t* position,
                                const T* gate, T* out, int64_t begin, int64_t end,
                                ScatterShape shape) {
  simd::run<ScatterRows<T>>(residual, cache, rows, position, gate, out, begin, end, shape);
}

#define GENACCEL_INSTANTIATE(T)                                                                 \
  template void scatter_gated_residual_cpu<T>(const T*, T*, const T*, const int32_t*, const T*, \
                                              T*, int64_t, int64_t, ScatterShape);
GENACCEL_INSTANTIATE(float)
GENACCEL_INSTANTIATE(double)
GENACCEL_INSTANTIATE(Half)
GENACCEL_INSTANTIATE(BFloat16)
#undef GENACCEL_INSTANTIATE

}  // namespace genaccel::tokens
