// SPDX-License-Identifier: Apache-2.0
// One warp per token, 8 tokens per block. A block first notes in shared memory which of its tokens
// are selected, and by which row: it reads all indices of its sample (from the second-level cache,
// in one or few coalesced loads), so they need no order and there is no second launch.
#include <cuda_runtime.h>

#include "common/integer.h"
#include "common/launch.cuh"
#include "common/pack.cuh"
#include "common/reduce.cuh"
#include "tokens/scatter_gated_residual.h"

namespace genaccel::tokens {
namespace {

constexpr int kThreads = 256;
constexpr int kTokens = kThreads / kWarpSize;

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    scatter_gated_residual_kernel(const T* __restrict__ residual, T* __restrict__ cache,
                                  const T* __restrict__ rows, const int64_t* __restrict__ index,
                                  const T* __restrict__ gate, T* __restrict__ out,
                                  ScatterShape shape, int64_t blocks_per_sample) {
  __shared__ int position[kTokens];
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t sample = blockIdx.x / blocks_per_sample;
  const int64_t first = (blockIdx.x - sample * blocks_per_sample) * kTokens;
  if (thread < kTokens) {
    position[thread] = -1;
  }
  __syncthreads();
  for (int64_t j = thread; j < shape.selected; j += kThreads) {
    const int64_t token = index[sample * shape.selected + j];
    if (token >= first && token < first + kTokens) {
      atomicMax(&position[token - first], static_cast<int>(j));
    }
  }
  __syncthreads();

  const int warp = thread / kWarpSize;
  const int64_t token = first + warp;
  if (token >= shape.tokens) {
    return;
  }
  const int64_t at = (sample * shape.tokens + token) * shape.channels;
  const T* factor = gate + sample * shape.gate_stride;
  const bool fresh = position[warp] >= 0;
  const T* value =
      fresh ? rows + (sample * shape.selected + position[warp]) * shape.channels : cache + at;
  const int packs = static_cast<int>(shape.channels / kWidth);
#pragma unroll 2  // 6 loads in flight
  for (int p = thread % kWarpSize; p < packs; p += kWarpSize) {
    const auto r = load_pack<kWidth>(residual + at, p);
    const auto v = load_pack<kWidth>(value, p);
    const auto g = load_pack<kWidth>(factor, p);
    Pack<T, kWidth> result;
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      result.set(i, gated_residual(r[i], g[i], v[i]));
    }
    store_pack<kWidth>(out + at, p, result);
    if (fresh) {  // the same for the whole warp
      store_pack<kWidth>(cache + at, p, v);
    }
  }
}

}  // namespace

template <typename T>
Status scatter_gated_residual_cuda(const T* residual, T* cache, const T* rows, const int64_t* index,
                                   const T* gate, T* out, ScatterShape shape, Stream stream) {
  if (shape.batch == 0 || shape.tokens == 0) {
    return nullptr;
  }
  const int64_t blocks_per_sample = ceil_div(shape.tokens, kTokens);
  const auto blocks = static_cast<unsigned>(shape.batch * blocks_per_sample);
  const bool packed = shape.gate_stride % kPackWidth<T> == 0 &&
                      fits_packs<T>(shape.channels, residual, cache, rows, gate, out);
  const auto kernel = packed ? scatter_gated_residual_kernel<T, kPackWidth<T>>
                             : scatter_gated_residual_kernel<T, 1>;
  kernel<<<blocks, kThreads, 0, stream>>>(residual, cache, rows, index, gate, out, shape,
                                          blocks_per_sample);
  return launch_status();
}

#define GENACCEL_INSTANTIATE(T)                                                                    \
  template Status scatter_gated_residual_cuda<T>(const T*, T*, const T*, const int64_t*, const T*, \
                                                 T*, ScatterShape, Stream);
GENACCEL_INSTANTIATE(float)
GENACCEL_INSTANTIATE(double)
GENACCEL_INSTANTIATE(Half)
GENACCEL_INSTANTIATE(BFloat16)
#undef GENACCEL_INSTANTIATE

}  // namespace genaccel::tokens
