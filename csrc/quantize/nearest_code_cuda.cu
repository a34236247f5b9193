// SPDX-License-Identifier: Apache-2.0
// Nearest code on the GPU: a thread owns a row and keeps the scores of kCodes code words in
// registers, while the block walks the codebook in shared-memory tiles. No matrix of scores is
// stored.
#include <cuda_runtime.h>

#include "common/integer.h"
#include "common/launch.cuh"
#include "quantize/nearest_code.h"

namespace genaccel::quantize {
namespace {

constexpr int kThreads = 128;  // rows per block
// Blocks that a multiprocessor holds at least in the backward: for more of them the compiler spills
// registers.
constexpr int kResident = 8;
constexpr int kCodes =
    32;  // code words per tile: as many scores as fit in registers without spills
constexpr int kChannels = 16;  // channels per tile
constexpr int kWarp = 32;

// out[row] = in[row] / |in[row]|, one warp per row.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    normalize_kernel(const T* __restrict__ in, T* __restrict__ out, int64_t rows, int64_t dim) {
  const int64_t row = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / kWarp;
  const int lane = threadIdx.x % kWarp;
  if (row >= rows) {
    return;  // whole warps leave together
  }
  T squared_norm = 0;
  for (int64_t c = lane; c < dim; c += kWarp) {
    squared_norm += in[row * dim + c] * in[row * dim + c];
  }
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    squared_norm += __shfl_xor_sync(0xffffffffu, squared_norm, offset);
  }
  const T scale = inverse_norm(squared_norm);
  for (int64_t c = lane; c < dim; c += kWarp) {
    out[row * dim + c] = in[row * dim + c] * scale;
  }
}

// quantized holds unit rows on entry and code words on return.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    nearest_code_kernel(const T* __restrict__ codes, T* __restrict__ quantized,
                        int64_t* __restrict__ indices, int64_t rows, int64_t num_codes,
                        int64_t dim) {
  __shared__ T tile[kChannels][kCodes];
  __shared__ int64_t chosen[kThreads];
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kThreads;
  const int64_t row = first_row + threadIdx.x;
  const bool owns_row = row < rows;

  T best_score = -INFINITY;
  int64_t best_index = 0;
  for (int64_t first_code = 0; first_code < num_codes; first_code += kCodes) {
    T score[kCodes] = {};
    for (int64_t first_channel = 0; first_channel < dim; first_channel += kChannels) {
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
        const int64_t channel = first_channel + c;
        const T y = owns_row && channel < dim ? quantized[row * dim + channel] : T(0);
#pragma unroll
        for (int k = 0; k < kCodes; ++k) {
          score[k] += y * tile[c][k];  // one address per warp: a broadcast
        }
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

template <typename T>
__global__ void __launch_bounds__(kThreads, kResident)
    nearest_code_backward_kernel(const T* __restrict__ grad, const T* __restrict__ features,
                                 T* __restrict__ grad_features, int64_t rows, int64_t dim) {
  const int64_t row = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / kWarp;
  const int lane = threadIdx.x % kWarp;
  if (row >= rows) {
    return;
  }
  T squared_norm = 0;
  T dot = 0;
  for (int64_t c = lane; c < dim; c += kWarp) {
    const T u = features[row * dim + c];
    squared_norm += u * u;
    dot += u * grad[row * dim + c];
  }
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    squared_norm += __shfl_xor_sync(0xffffffffu, squared_norm, offset);
    dot += __shfl_xor_sync(0xffffffffu, dot, offset);
  }
  const T scale = squared_norm > 0 ? inverse_norm(squared_norm) : T(0);
  const T along = dot * scale * scale;
  for (int64_t c = lane; c < dim; c += kWarp) {
    grad_features[row * dim + c] = (grad[row * dim + c] - along * features[row * dim + c]) * scale;
  }
}

unsigned warp_per_row_blocks(int64_t rows) {
  return static_cast<unsigned>(ceil_div(rows * kWarp, kThreads));
}

}  // namespace

template <typename T>
Status nearest_code_cuda(const T* features, const T* codebook, T* codes, T* quantized,
                         int64_t* indices, int64_t rows, int64_t num_codes, int64_t dim,
                         Stream stream) {
  if (rows == 0) {
    return nullptr;
  }
  normalize_kernel<<<warp_per_row_blocks(num_codes), kThreads, 0, stream>>>(codebook, codes,
                                                                            num_codes, dim);
  normalize_kernel<<<warp_per_row_blocks(rows), kThreads, 0, stream>>>(features, quantized, rows,
                                                                       dim);
  const auto blocks = static_cast<unsigned>(ceil_div(rows, kThreads));
  nearest_code_kernel<<<blocks, kThreads, 0, stream>>>(codes, quantized, indices, rows, num_codes,
                                                       dim);
  return launch_status();
}

template <typename T>
Status nearest_code_backward_cuda(const T* grad, const T* features, T* grad_features, int64_t rows,
                                  int64_t dim, Stream stream) {
  if (rows == 0) {
    return nullptr;
  }
  nearest_code_backward_kernel<<<warp_per_row_blocks(rows), kThreads, 0, stream>>>(
      grad, features, grad_features, rows, dim);
  return launch_status();
}

#define GENACCEL_INSTANTIATE(T)                                                                \
  template Status nearest_code_cuda<T>(const T*, const T*, T*, T*, int64_t*, int64_t, int64_t, \
                                       int64_t, Stream);                                       \
  template Status nearest_code_backward_cuda<T>(const T*, const T*, T*, int64_t, int64_t, Stream);
GENACCEL_INSTANTIATE(float)
GENACCEL_INSTANTIATE(double)
#undef GENACCEL_INSTANTIATE

}  // namespace genaccel::quantize
