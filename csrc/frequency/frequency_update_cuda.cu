// SPDX-License-Identifier: Apache-2.0
// A block is a tile: the low-pass of the faithful picture, then of the sharp one in the same shared
// memory, while the high band of the first waits in registers. Bytes: one read of both pictures, of
// each tile's margins again, one more read of the faithful one, and one write.
#include <cuda_runtime.h>

#include "common/launch.cuh"
#include "frequency/frequency_update.h"
#include "frequency/tile_filter_shared.cuh"

namespace genaccel::frequency {
namespace {

template <typename T>
__global__ void __launch_bounds__(kThreads)
    frequency_update_kernel(const __grid_constant__ FrequencyUpdate<T> p,
                            const __grid_constant__ Tiling<Accumulate<T>> tiling) {
  using A = Accumulate<T>;
  constexpr int kPerThread = TileFilter<A>::kPerThread;
  constexpr int kSide = TileFilter<A>::kSide;
  __shared__ TileFilter<A> tile;
  const int64_t frame = tiling.plane(blockIdx.x);
  const int64_t row = tiling.row(blockIdx.x);
  const int64_t column = tiling.column(blockIdx.x);
  const int64_t channel = p.channel_stride();
  A high[kPerThread];
  A sharp_high[kPerThread];
#pragma unroll
  for (int picture = 0; picture < 2; ++picture) {
    const T* from = picture == 0 ? p.faithful : p.sharp;
    tile.fill(row, column, p.height, p.width, p.periodic, [&](int64_t y, int64_t x) {
      const T* at = from + p.row_start(frame, y) + x * p.column_stride();
      return static_cast<A>(kRed / kWhite<T>) * number_of(at[0]) +
             static_cast<A>(kGreen / kWhite<T>) * number_of(at[channel]) +
             static_cast<A>(kBlue / kWhite<T>) * number_of(at[2 * channel]);
    });
    A value[kPerThread];
    A low[kPerThread];
    tile.filter(p.taps, value, low);
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
      (picture == 0 ? high : sharp_high)[i] = value[i] - low[i];
    }
  }
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    const int place = threadIdx.x + kThreads * i;
    const int64_t y = row + place / kSide;
    const int64_t x = column + place % kSide;
    if (y >= p.height || x >= p.width) {
      continue;
    }
    constexpr A white = static_cast<A>(kWhite<T>);
    A change = update_of(high[i], sharp_high[i], p.alpha) * white;
    if (p.weight != nullptr) {
      change *= p.weight[(frame * p.height + y) * p.width + x];
    }
    const int64_t start = p.row_start(frame, y) + x * p.column_stride();
#pragma unroll
    for (int c = 0; c < 3; ++c) {
      const int64_t at = start + c * channel;
      p.out[at] = sample_of<T>(clamped(number_of(p.faithful[at]) + change, white));
    }
  }
}

}  // namespace

template <typename T>
Status frequency_update_cuda(const FrequencyUpdate<T>& update, Stream stream) {
  const Tiling<Accumulate<T>> tiling(update.height, update.width);
  return start({update.frames * tiling.down * tiling.across, kThreads, stream},
               frequency_update_kernel<T>, update, tiling);
}

#define GENACCEL_INSTANTIATE(T) \
  template Status frequency_update_cuda<T>(const FrequencyUpdate<T>&, Stream);
GENACCEL_INSTANTIATE(uint8_t)
GENACCEL_INSTANTIATE(float)
GENACCEL_INSTANTIATE(double)
GENACCEL_INSTANTIATE(Half)
GENACCEL_INSTANTIATE(BFloat16)
#undef GENACCEL_INSTANTIATE

}  // namespace genaccel::frequency
