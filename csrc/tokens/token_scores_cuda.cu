// SPDX-License-Identifier: Apache-2.0
// One warp per row. Each input byte is read once, and 4 bytes a row are written: DiT-XL/2 at batch
// 64 in 16 bits reads 38 MB, 8 microseconds at 4.8 TB/s.
#include <cuda_runtime.h>

#include "common/integer.h"
#include "common/launch.cuh"
#include "common/pack.cuh"
#include "common/reduce.cuh"
#include "tokens/token_scores.h"

namespace genaccel::tokens {
namespace {

constexpr int kThreads = 256;

template <typename T, int kWidth, bool kHasReference>
__global__ void __launch_bounds__(kThreads)
    token_scores_kernel(const T* __restrict__ x, const T* __restrict__ reference,
                        float* __restrict__ score, int64_t rows, int64_t channels) {
  using A = Accumulate<T>;
  const int64_t row = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / kWarpSize;
  const int lane = threadIdx.x % kWarpSize;
  if (row >= rows) {
    return;  // whole warps leave together
  }
  const int64_t packs = channels / kWidth;
  A sum[kWidth] = {};
#pragma unroll 4  // loads in flight before the first use
  for (int64_t p = lane; p < packs; p += kWarpSize) {
    const auto a = load_pack<kWidth>(x + row * channels, p);
    if constexpr (kHasReference) {
      const auto b = load_pack<kWidth>(reference + row * channels, p);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        sum[i] += a[i] - b[i];
      }
    } else {
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        sum[i] += a[i];
      }
    }
  }
#pragma unroll
  for (int i = 1; i < kWidth; ++i) {
    sum[0] += sum[i];
  }
  const A total = warp_sum(sum[0]);
  if (lane == 0) {
    score[row] = score_of_sum(total, channels);
  }
}

template <typename T, int kWidth>
Status launch(const T* x, const T* reference, float* score, int64_t rows, int64_t channels,
              Stream stream) {
  const auto kernel = reference == nullptr ? token_scores_kernel<T, kWidth, false>
                                           : token_scores_kernel<T, kWidth, true>;
  return start({ceil_div(rows, kThreads / kWarpSize), kThreads, stream}, kernel, x, reference,
               score, rows, channels);
}

}  // namespace

template <typename T>
Status token_scores_cuda(const T* x, const T* reference, float* score, int64_t rows,
                         int64_t channels, Stream stream) {
  return fits_packs<T>(channels, x, reference)
             ? launch<T, kPackWidth<T>>(x, reference, score, rows, channels, stream)
             : launch<T, 1>(x, reference, score, rows, channels, stream);
}

#define GENACCEL_INSTANTIATE(T) \
  template Status token_scores_cuda<T>(const T*, const T*, float*, int64_t, int64_t, Stream);
GENACCEL_INSTANTIATE(float)
GENACCEL_INSTANTIATE(double)
GENACCEL_INSTANTIATE(Half)
GENACCEL_INSTANTIATE(BFloat16)
#undef GENACCEL_INSTANTIATE

}  // namespace genaccel::tokens
