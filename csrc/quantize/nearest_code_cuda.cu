// SPDX-License-Identifier: Apache-2.0
// Nearest code on the GPU: a thread owns a row and keeps the scores of kCodes code words in
// registers, while the block walks the codebook in shared-memory tiles. No matrix of scores is
// stored.
#include <cuda_runtime.h>

#include "common/integer.h"
#include "common/launch.cuh"
#include "common/pack.cuh"
#include "quantize/nearest_code.h"

namespace genaccel::quantize {
namespace {

constexpr int kThreads = 128;  // rows per block
// Blocks that a multiprocessor holds at least in the backward: for more of them the compiler spills
// registers.
constexpr int kResident = 8;
constexpr int kCodes =
    32;  // code words per tile: as many scores as fit in registers without spills
constexpr int kChannels = 16;         // channels per tile
constexpr int kHeld = 2 * kChannels;  // channels of a row that fit in registers beside the scores
constexpr int kWarp = 32;

// The lanes of a warp that share a row: all of them, or for rows in packs of 16 bytes as many as
// hold 32 channels.
template <typename T, int kWidth>
constexpr int kRowLanes = kWarp / kWidth;

// Sum over the lanes of a row, known to each of them.
template <int kLanes, typename T>
__device__ __forceinline__ T lanes_sum(T value) {
  for (int offset = kLanes / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, offset);
  }
  return value;
}

// out[row] = in[row] / |in[row]|
template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    normalize_kernel(const T* __restrict__ in, T* __restrict__ out, int64_t rows, int64_t dim) {
  constexpr int kLanes = kRowLanes<T, kWidth>;
  const int64_t own = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / kLanes;
  const int64_t row = own < rows ? own : rows - 1;  // every lane takes part in its warp's sums
  const int lane = threadIdx.x % kLanes;
  const int64_t packs = dim / kWidth;
  T squared_norm = 0;
  for (int64_t i = lane; i < packs; i += kLanes) {
    const auto pack = load_pack<kWidth>(in + row * dim, i);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      squared_norm += pack.value[j] * pack.value[j];
    }
  }
  const T scale = inverse_norm(lanes_sum<kLanes>(squared_norm));
  if (own >= rows) {
    return;
  }
  for (int64_t i = lane; i < packs; i += kLanes) {
    const auto pack = load_pack<kWidth>(in + row * dim, i);
    Pack<T, kWidth> result;
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      result.value[j] = pack.value[j] * scale;
    }
    store_pack<kWidth>(out + row * dim, i, result);
  }
}

// quantized holds unit rows on entry and code words on return. kHolds: rows of at most kHeld
// channels stay in registers; else lanes read theirs again for each tile, from 32 different lines.
template <typename T, bool kHolds>
__global__ void __launch_bounds__(kThreads)
    nearest_code_kernel(const T* __restrict__ codes, T* __restrict__ quantized,
                        int64_t* __restrict__ indices, int64_t rows, int64_t num_codes,
                        int64_t dim) {
  __shared__ T tile[kChannels][kCodes];
  __shared__ int64_t chosen[kThreads];
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kThreads;
  const int64_t row = first_row + threadIdx.x;
  const bool owns_row = row < rows;

  T held[kHolds ? kHeld : 1];
  if constexpr (kHolds) {
#pragma unroll
    for (int c = 0; c < kHeld; ++c) {
      held[c] = owns_row && c < dim ? quantized[row * dim + c] : T(0);
    }
  }

  T best_score = -INFINITY;
  int64_t best_index = 0;
  for (int64_t first_code = 0; first_code < num_codes; first_code += kCodes) {
    T score[kCodes] = {};
    // y_at(c): channel first_channel + c of this thread's row.
    auto add_channels = [&](int64_t first_channel, auto y_at) {
      __syncthreads();  // the previous tile has been read
      for (int i = threadIdx.x; i < kCodes * kChannels; i += kThreads) {
        const int64_t code = first_code + i / kChannels;
        const int64_t channel = first_channel + i % kChannels;
        const bool inside = code < num_codes && channel < dim;
        tile[i % kChannels][i / kChannels] = inside ? codes[code * dim + channel] : T(0);
      }
      __syncthreads();
#pragma unroll
      for (int c = 0; c < kChannels; ++c) {
        const T y = y_at(c);
#pragma unroll
        for (int k = 0; k < kCodes; ++k) {
          score[k] += y * tile[c][k];  // one address per warp: a broadcast
        }
      }
    };
    if constexpr (kHolds) {
      add_channels(0, [&](int c) { return held[c]; });
      if (dim > kChannels) {
        add_channels(kChannels, [&](int c) { return held[kChannels + c]; });
      }
    } else {
      for (int64_t first = 0; first < dim; first += kChannels) {
        add_channels(first, [&](int c) {
          return owns_row && first + c < dim ? quantized[row * dim + first + c] : T(0);
        });
      }
    }
#pragma unroll
    for (int k = 0; k < kCodes; ++k) {
      const int64_t index = first_code + k;
      if (index < num_codes && is_better(score[k], index, best_score, best_index)) {
        best_score = score[k];
        best_index = index;
      }
    }
  }
  chosen[threadIdx.x] = best_index;
  if (owns_row) {
    indices[row] = best_index;
  }
  __syncthreads();
  const int64_t block_rows = rows - first_row < kThreads ? rows - first_row : kThreads;
  for (int64_t i = threadIdx.x; i < block_rows * dim; i += kThreads) {
    quantized[first_row * dim + i] = codes[chosen[i / dim] * dim + i % dim];
  }
}

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads, kResident)
    nearest_code_backward_kernel(const T* __restrict__ grad, const T* __restrict__ features,
                                 T* __restrict__ grad_features, int64_t rows, int64_t dim) {
  constexpr int kLanes = kRowLanes<T, kWidth>;
  const int64_t own = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / kLanes;
  const int64_t row = own < rows ? own : rows - 1;  // every lane takes part in its warp's sums
  const int lane = threadIdx.x % kLanes;
  const int64_t packs = dim / kWidth;
  T squared_norm = 0;
  T dot = 0;
  for (int64_t i = lane; i < packs; i += kLanes) {
    const auto u = load_pack<kWidth>(features + row * dim, i);
    const auto g = load_pack<kWidth>(grad + row * dim, i);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      squared_norm += u.value[j] * u.value[j];
      dot += u.value[j] * g.value[j];
    }
  }
  squared_norm = lanes_sum<kLanes>(squared_norm);
  dot = lanes_sum<kLanes>(dot);
  if (own >= rows) {
    return;
  }
  const T scale = squared_norm > 0 ? inverse_norm(squared_norm) : T(0);
  const T along = dot * scale * scale;
  for (int64_t i = lane; i < packs; i += kLanes) {
    const auto u = load_pack<kWidth>(features + row * dim, i);
    const auto g = load_pack<kWidth>(grad + row * dim, i);
    Pack<T, kWidth> result;
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      result.value[j] = (g.value[j] - along * u.value[j]) * scale;
    }
    store_pack<kWidth>(grad_features + row * dim, i, result);
  }
}

template <typename T, int kWidth>
Grid row_grid(int64_t rows, Stream stream) {
  return {ceil_div(rows * kRowLanes<T, kWidth>, kThreads), kThreads, stream};
}

template <typename T>
Status normalize_rows(const T* in, T* out, int64_t rows, int64_t dim, Stream stream) {
  constexpr int kWidth = kPackWidth<T>;
  return fits_packs<T>(dim, in, out)
             ? start(row_grid<T, kWidth>(rows, stream), normalize_kernel<T, kWidth>, in, out, rows,
                     dim)
             : start(row_grid<T, 1>(rows, stream), normalize_kernel<T, 1>, in, out, rows, dim);
}

}  // namespace

template <typename T>
Status nearest_code_cuda(const T* features, const T* codebook, T* codes, T* quantized,
                         int64_t* indices, int64_t rows, int64_t num_codes, int64_t dim,
                         Stream stream) {
  if (rows == 0) {
    return nullptr;
  }
  if (const Status status = normalize_rows(codebook, codes, num_codes, dim, stream)) {
    return status;
  }
  if (const Status status = normalize_rows(features, quantized, rows, dim, stream)) {
    return status;
  }
  // Two registers a double: the scores alone fill what there is.
  const auto kernel = sizeof(T) == 4 && dim <= kHeld ? nearest_code_kernel<T, sizeof(T) == 4>
                                                     : nearest_code_kernel<T, false>;
  return start({ceil_div(rows, kThreads), kThreads, stream}, kernel, codes, quantized, indices,
               rows, num_codes, dim);
}

template <typename T>
Status nearest_code_backward_cuda(const T* grad, const T* features, T* grad_features, int64_t rows,
                                  int64_t dim, Stream stream) {
  constexpr int kWidth = kPackWidth<T>;
  return fits_packs<T>(dim, grad, features, grad_features)
             ? start(row_grid<T, kWidth>(rows, stream), nearest_code_backward_kernel<T, kWidth>,
                     grad, features, grad_features, rows, dim)
             : start(row_grid<T, 1>(rows, stream), nearest_code_backward_kernel<T, 1>, grad,
                     features, grad_features, rows, dim);
}

#define GENACCEL_INSTANTIATE(T)                                                                \
  template Status nearest_code_cuda<T>(const T*, const T*, T*, T*, int64_t*, int64_t, int64_t, \
                                       int64_t, Stream);                                       \
  template Status nearest_code_backward_cuda<T>(const T*, const T*, T*, int64_t, int64_t, Stream);
GENACCEL_INSTANTIATE(float)
GENACCEL_INSTANTIATE(double)
#undef GENACCEL_INSTANTIATE

}  // namespace genaccel::quantize
