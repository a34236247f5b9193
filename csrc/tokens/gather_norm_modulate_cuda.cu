// SPDX-License-Identifier: Apache-2.0
// One block per selected row, which is read once and kept in registers: a tenth of the tokens at
// batch 2 are some 50 rows, too few for a warp each to fill the chip. Bytes: 2 * batch * selected *
// channels elements, and shift and scale from the second-level cache.
#include <cuda_runtime.h>

#include "common/launch.cuh"
#include "common/pack.cuh"
#include "common/reduce.cuh"
#include "tokens/gather_norm_modulate.h"

namespace genaccel::tokens {
namespace {

constexpr int kThreads = 128;
// Blocks that a multiprocessor holds at least: for more of them the compiler spills registers.
constexpr int kResident = 6;
constexpr int kHeld = 4;  // packs per thread in registers: 4096 channels of 16 bits, 2048 of 32

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads, kResident)
    gather_norm_modulate_kernel(const T* __restrict__ x, const int64_t* __restrict__ index,
                                const T* __restrict__ shift, const T* __restrict__ scale,
                                T* __restrict__ out, GatherShape shape, Accumulate<T> epsilon) {
  using A = Accumulate<T>;
  __shared__ A scratch[kThreads / kWarpSize];
  const int64_t row = blockIdx.x;
  const int64_t sample = row / shape.selected;
  const int64_t token = index[row];
  const bool in_range = token >= 0 && token < shape.tokens;
  const T* in = x + (sample * shape.tokens + (in_range ? token : 0)) * shape.channels;
  const int thread = static_cast<int>(threadIdx.x);
  const int packs = static_cast<int>(shape.channels / kWidth);

  Pack<T, kWidth> held[kHeld];
#pragma unroll
  for (int h = 0; h < kHeld; ++h) {
    if (h * kThreads + thread < packs) {
      held[h] = load_pack<kWidth>(in, h * kThreads + thread);
    }
  }
  // visit(p, pack) for the packs of this thread; what registers do not hold is read again.
  auto for_each_pack = [&](auto visit) {
#pragma unroll
    for (int h = 0; h < kHeld; ++h) {
      if (h * kThreads + thread < packs) {
        visit(h * kThreads + thread, held[h]);
      }
    }
    for (int p = kHeld * kThreads + thread; p < packs; p += kThreads) {
      visit(p, load_pack<kWidth>(in, p));
    }
  };

  A sum = 0;
  for_each_pack([&](int, const Pack<T, kWidth>& pack) {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      sum += pack[i];
    }
  });
  const A mean = row_sum<kThreads>(sum, scratch) / static_cast<A>(shape.channels);
  A squared_sum = 0;
  for_each_pack([&](int, const Pack<T, kWidth>& pack) {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      squared_sum += (pack[i] - mean) * (pack[i] - mean);
    }
  });
  const A inverse =
      inverse_deviation(row_sum<kThreads>(squared_sum, scratch), shape.channels, epsilon);
  const A poison = in_range ? A(0) : A(NAN);
  for_each_pack([&](int p, const Pack<T, kWidth>& pack) {
    const auto add = load_pack<kWidth>(shift + sample * shape.shift_stride, p);
    const auto multiply = load_pack<kWidth>(scale + sample * shape.scale_stride, p);
    Pack<T, kWidth> result;
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      result.set(i, norm_modulated(pack[i], mean, inverse, add[i], multiply[i]) + poison);
    }
    store_pack<kWidth>(out + row * shape.channels, p, result);
  });
}

}  // namespace

template <typename T>
Status gather_norm_modulate_cuda(const T* x, const int64_t* index, const T* shift, const T* scale,
                                 T* out, GatherShape shape, double epsilon, Stream stream) {
  const auto rows = static_cast<unsigned>(shape.batch * shape.selected);
  if (rows == 0) {
    return nullptr;
  }
  const bool strides_fit =
      shape.shift_stride % kPackWidth<T> == 0 && shape.scale_stride % kPackWidth<T> == 0;
  const auto kernel = strides_fit && fits_packs<T>(shape.channels, x, shift, scale, out)
                          ? gather_norm_modulate_kernel<T, kPackWidth<T>>
                          : gather_norm_modulate_kernel<T, 1>;
  kernel<<<rows, kThreads, 0, stream>>>(x, index, shift, scale, out, shape,
                                        static_cast<Accumulate<T>>(epsilon));
  return launch_status();
}

#define GENACCEL_INSTANTIATE(T)                                                                  \
  template Status gather_norm_modulate_cuda<T>(const T*, const int64_t*, const T*, const T*, T*, \
                                               GatherShape, double, Stream);
GENACCEL_INSTANTIATE(float)
GENACCEL_INSTANTIATE(double)
GENACCEL_INSTANTIATE(Half)
GENACCEL_INSTANTIATE(BFloat16)
#undef GENACCEL_INSTANTIATE

}  // namespace genaccel::tokens
