// SPDX-License-Identifier: Apache-2.0
// A block is a tile. Bytes: one read and one write of a plane, and of each tile's margins again.
#include <cuda_runtime.h>

#include "common/launch.cuh"
#include "frequency/low_pass.h"
#include "frequency/tile_filter_shared.cuh"

namespace genaccel::frequency {
namespace {

template <typename T>
__global__ void __launch_bounds__(kThreads)
    low_pass_kernel(const __grid_constant__ LowPass<T> p,
                    const __grid_constant__ Tiling<Accumulate<T>> tiling) {
  using A = Accumulate<T>;
  __shared__ TileFilter<A> tile;
  const T* x = p.x + tiling.plane(blockIdx.x) * p.height * p.width;
  T* out = p.out + (x - p.x);
  const int64_t row = tiling.row(blockIdx.x);
  const int64_t column = tiling.column(blockIdx.x);
  tile.fill(row, column, p.height, p.width, p.periodic,
            [&](int64_t i, int64_t j) { return to_float(x[i * p.width + j]); });
  A value[TileFilter<A>::kPerThread];
  A low[TileFilter<A>::kPerThread];
  tile.filter(p.taps, value, low);
#pragma unroll
  for (int i = 0; i < TileFilter<A>::kPerThread; ++i) {
    const int place = threadIdx.x + kThreads * i;
    const int64_t y = row + place / TileFilter<A>::kSide;
    const int64_t at = column + place % TileFilter<A>::kSide;
    if (y < p.height && at < p.width) {
      out[y * p.width + at] = from_float<T>(low[i]);
    }
  }
}

}  // namespace

template <typename T>
Status low_pass_cuda(const LowPass<T>& filter, Stream stream) {
  const Tiling<Accumulate<T>> tiling(filter.height, filter.width);
  return start({filter.planes * tiling.down * tiling.across, kThreads, stream}, low_pass_kernel<T>,
               filter, tiling);
}

#define GENACCEL_INSTANTIATE(T) template Status low_pass_cuda<T>(const LowPass<T>&, Stream);
GENACCEL_INSTANTIATE(float)
GENACCEL_INSTANTIATE(double)
GENACCEL_INSTANTIATE(Half)
GENACCEL_INSTANTIATE(BFloat16)
#undef GENACCEL_INSTANTIATE

}  // namespace genaccel::frequency
