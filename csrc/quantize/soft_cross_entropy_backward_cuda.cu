// SPDX-License-Identifier: Apache-2.0
// Gradients of the soft cross-entropy on the GPU: the walk of the forward again. The w of a tile go
// through shared memory to be multiplied with its code words, or with its rows for the gradient of
// the codebook, which is a walk of its own: a block owns code words, and no atomic is needed.
#include <cuda_runtime.h>

#include "common/half.h"
#include "common/integer.h"
#include "common/launch.cuh"
#include "common/read_once.h"
#include "common/reduce.cuh"
#include "quantize/code_tiles_shared.cuh"
#include "quantize/soft_codes_shared.h"
#include "quantize/soft_cross_entropy_backward.h"

namespace genaccel::quantize {
namespace {

using namespace code_tiles;
using soft_codes::bits_from_nats;
using soft_codes::kStatistics;
using soft_codes::RowGradient;

struct Exp {
  template <typename T>
  __device__ __forceinline__ static T of(T x) {
    return power_of_two(bits_from_nats(x));
  }
};

// What the forward left, and the gradient that comes in.
template <typename T>
struct Saved {
  const T* grad;
  const int64_t* indices;
  const T* statistics;
};

template <typename T>
using Weights = T[kTileRows][kTileCodes<T> + kPad];

// partial [parts, rows, dim + 1]: sums of w c, and of w. A part's first tile writes, others add.
template <typename T, typename Z>
__global__ void __launch_bounds__(kThreads, kResident<T>)
    backward_rows_kernel(Problem<T, Z> problem, Saved<T> saved, Cut cut,
                         Z* __restrict__ grad_logits, T* __restrict__ partial, bool with_features) {
  __shared__ Tile<T> tile;
  alignas(32) __shared__ Weights<T> weight;
  constexpr int warp_rows = kTileRows / kWarps;
  const int lane = threadIdx.x % kWarpSize;
  const int warp_row = threadIdx.x / kWarpSize * warp_rows;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kTileRows;
  const int64_t begin = cut.begin();
  const int64_t end = cut.end();
  const int64_t last_channel = (problem.dim - 1) / kChannels * kChannels;
  const bool in_one = last_channel == 0;
  T* out = partial + blockIdx.y * problem.rows * (problem.dim + 1);
  T residue[kOwnRows] = {};
  T sum[warp_rows] = {};
  for (int64_t t = begin; t < end; ++t) {
    const int64_t first_code = t * kTileCodes<T>;
    OwnLogits<T, Z> logits;
    logits.load(problem, first_row, first_code);
    Own<T> score;
    score_tile(tile, problem, first_row, first_code, t > begin, false, score);
#pragma unroll
    for (int i = 0; i < kOwnRows; ++i) {
      const int64_t n = first_row + own_row(i);
      // Rows past the end repeat the last: their sums go nowhere.
      const int64_t known = n < problem.rows ? n : problem.rows - 1;
      const RowGradient<T> row(saved.statistics + known * kStatistics, problem.scale);
      const T grad = bits_from_nats(saved.grad[known]);
#pragma unroll
      for (int g = 0; g < kGroups<T>; ++g) {
        const int64_t k = first_code + own_code<T>(g * kQuad);
        Quad<T> w = {};
        Quad<Z> difference = {};
#pragma unroll
        for (int j = 0; j < kQuad; ++j) {
          const T z = logits.at(i, g * kQuad + j);
          const T p = row.template p<Exp>(score[i][g * kQuad + j]);  // padding: 0
          w.value[j] = row.w(p, z);
          residue[i] += w.value[j];
          difference.set(j, (row.template q<Exp>(z) - p) * grad);
        }
        quad(&weight[own_row(i)][own_code<T>(g * kQuad)]) = w;
        Z* to = grad_logits + n * problem.num_codes + k;
        if (grad_logits == nullptr || n >= problem.rows) {
          continue;
        }
        if (problem.has_quads && k < problem.num_codes) {
          quad(to) = difference;
        } else {
#pragma unroll
          for (int j = 0; j < kQuad; ++j) {
            if (k + j < problem.num_codes) {
              to[j] = difference.value[j];
            }
          }
        }
      }
    }
    // From the last channels, which are staged, to the first.
    for (int64_t channel = last_channel; channel >= 0 && with_features; channel -= kChannels) {
      if (channel < last_channel) {
        __syncthreads();
        stage_codes(tile, problem, first_code, channel);
      }
      __syncthreads();
      const int64_t c = channel + lane;
#pragma unroll
      for (int r = 0; r < warp_rows; ++r) {
        const int64_t n = first_row + warp_row + r;
        if (!in_one) {
          const bool goes_on = t > begin && n < problem.rows && c < problem.dim;
          sum[r] = goes_on ? out[n * (problem.dim + 1) + c] : T(0);
        }
      }
#pragma unroll 4
      for (int k = 0; k < kTileCodes<T>; k += kQuad) {
        const Quad<T> code = quad(&tile.code[lane][k]);
#pragma unroll
        for (int r = 0; r < warp_rows; ++r) {
          const Quad<T> w = quad(&weight[warp_row + r][k]);  // one address per warp: a broadcast
#pragma unroll
          for (int j = 0; j < kQuad; ++j) {
            sum[r] += w.value[j] * code.value[j];
          }
        }
      }
#pragma unroll
      for (int r = 0; r < warp_rows; ++r) {
        const int64_t n = first_row + warp_row + r;
        if ((!in_one || t + 1 == end) && n < problem.rows && c < problem.dim) {
          out[n * (problem.dim + 1) + c] = sum[r];
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kOwnRows; ++i) {
    for (int offset = kColumns / 2; offset > 0; offset /= 2) {
      residue[i] += __shfl_xor_sync(0xffffffffu, residue[i], offset);
    }
    const int64_t n = first_row + own_row(i);
    if (threadIdx.x % kColumns == 0 && n < problem.rows) {
      out[n * (problem.dim + 1) + problem.dim] = residue[i];
    }
  }
}

// One thread per element of [rows, dim]; residue [rows].
template <typename T>
__global__ void __launch_bounds__(kThreads)
    finish_rows_kernel(const T* __restrict__ partial, const T* __restrict__ codebook,
                       Saved<T> saved, T* __restrict__ grad_features, T* __restrict__ residue,
                       int64_t rows, int64_t num_codes, int64_t dim, int64_t parts, T scale) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= rows * dim) {
    return;
  }
  const int64_t n = i / dim;
  const int64_t c = i % dim;
  T total = 0;
  T sum = 0;
  for (int64_t part = 0; part < parts; ++part) {
    const T* row = partial + (part * rows + n) * (dim + 1);
    total += row[dim];
    sum += grad_features == nullptr ? T(0) : row[c];
  }
  if (c == 0) {
    residue[n] = total;
  }
  if (grad_features != nullptr) {
    const T share = total / saved.statistics[n * kStatistics + soft_codes::kSoftSum];
    const int64_t index = existing_index(read_once(saved.indices + n), num_codes);
    const T centred = sum - share * codebook[index * dim + c];
    // In this order: zero times a large scale first.
    grad_features[i] = centred * scale * bits_from_nats(saved.grad[n]);
  }
}

// partial [parts, num_codes, dim + 1]: sums of w y, and of w, times the incoming gradient.
template <typename T, typename Z>
__global__ void __launch_bounds__(kThreads, kResident<T>)
    backward_codes_kernel(Problem<T, Z> problem, Saved<T> saved, Cut cut,
                          const T* __restrict__ residue, T* __restrict__ partial) {
  __shared__ Tile<T> tile;
  alignas(32) __shared__ Weights<T> weight;
  constexpr int warp_codes = kTileCodes<T> / kWarps;
  const int lane = threadIdx.x % kWarpSize;
  const int warp_code = threadIdx.x / kWarpSize * warp_codes;
  const int64_t first_code = static_cast<int64_t>(blockIdx.x) * kTileCodes<T>;
  const int64_t begin = cut.begin();
  const int64_t end = cut.end();
  const int64_t last_channel = (problem.dim - 1) / kChannels * kChannels;
  const bool in_one = last_channel == 0;
  T* out = partial + blockIdx.y * problem.num_codes * (problem.dim + 1);
  T total = 0;  // of w, for code word first_code + threadIdx.x
  T sum[warp_codes] = {};
  for (int64_t t = begin; t < end; ++t) {
    const int64_t first_row = t * kTileRows;
    OwnLogits<T, Z> logits;
    logits.load(problem, first_row, first_code);
    Own<T> score;
    score_tile(tile, problem, first_row, first_code, false, t > begin, score);
#pragma unroll
    for (int i = 0; i < kOwnRows; ++i) {
      const int64_t n = first_row + own_row(i);
      const int64_t known = n < problem.rows ? n : problem.rows - 1;
      RowGradient<T> row(saved.statistics + known * kStatistics, problem.scale);
      row.mean -= residue[known];
      const T grad = saved.grad[known];
#pragma unroll
      for (int g = 0; g < kGroups<T>; ++g) {
        Quad<T> w = {};
#pragma unroll
        for (int j = 0; j < kQuad; ++j) {
          const T p = row.template p<Exp>(score[i][g * kQuad + j]);
          const T known_w = row.w(p, logits.at(i, g * kQuad + j)) * grad;
          w.value[j] = n < problem.rows ? known_w : T(0);
        }
        quad(&weight[own_row(i)][own_code<T>(g * kQuad)]) = w;
      }
    }
    for (int64_t channel = last_channel; channel >= 0; channel -= kChannels) {
      if (channel < last_channel) {
        __syncthreads();
        stage_rows(tile, problem, first_row, channel);
      }
      __syncthreads();
      const int64_t c = channel + lane;
      if (!in_one) {
#pragma unroll
        for (int k = 0; k < warp_codes; ++k) {
          const int64_t code = first_code + warp_code + k;
          const bool goes_on = t > begin && code < problem.num_codes && c < problem.dim;
          sum[k] = goes_on ? out[code * (problem.dim + 1) + c] : T(0);
        }
      }
      for (int r = 0; r < kTileRows; ++r) {
        const T y = tile.row[lane][r];
#pragma unroll
        for (int k = 0; k < warp_codes; k += kQuad) {
          const Quad<T> w = quad(&weight[r][warp_code + k]);
#pragma unroll
          for (int j = 0; j < kQuad; ++j) {
            sum[k + j] += y * w.value[j];
          }
        }
      }
#pragma unroll
      for (int k = 0; k < warp_codes; ++k) {
        const int64_t code = first_code + warp_code + k;
        if ((!in_one || t + 1 == end) && code < problem.num_codes && c < problem.dim) {
          out[code * (problem.dim + 1) + c] = sum[k];
        }
      }
    }
    if (threadIdx.x < kTileCodes<T>) {
      for (int r = 0; r < kTileRows; ++r) {
        total += weight[r][threadIdx.x];
      }
    }
  }
  if (threadIdx.x < kTileCodes<T> && first_code + threadIdx.x < problem.num_codes) {
    out[(first_code + threadIdx.x) * (problem.dim + 1) + problem.dim] = total;
  }
}

// One thread per element of [num_codes, dim].
template <typename T>
__global__ void __launch_bounds__(kThreads)
    finish_codes_kernel(const T* __restrict__ partial, const T* __restrict__ codebook,
                        T* __restrict__ grad_codebook, int64_t num_codes, int64_t dim,
                        int64_t parts, T scale) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= num_codes * dim) {
    return;
  }
  T total = 0;
  T sum = 0;
  for (int64_t part = 0; part < parts; ++part) {
    const T* code = partial + (part * num_codes + i / dim) * (dim + 1);
    total += code[dim];
    sum += code[i % dim];
  }
  grad_codebook[i] = bits_from_nats((sum - total * codebook[i]) * scale);
}

// In elements: the packed codebook, the residues, and the partial sums of either walk, which do not
// live at the same time.
template <typename T>
int64_t workspace_size(const Geometry<T>& geometry, int64_t rows, int64_t num_codes, int64_t dim,
                       bool with_codebook) {
  const int64_t over_codes = geometry.over_codes.parts * rows;
  const int64_t over_rows = with_codebook ? geometry.over_rows.parts * num_codes : 0;
  return geometry.packed_size(dim) + rows +
         (over_codes > over_rows ? over_codes : over_rows) * (dim + 1);
}

}  // namespace

template <typename T>
int64_t soft_cross_entropy_backward_workspace_bytes(int64_t rows, int64_t num_codes, int64_t dim,
                                                    bool with_codebook) {
  return workspace_size(Geometry<T>(rows, num_codes), rows, num_codes, dim, with_codebook) *
         static_cast<int64_t>(sizeof(T));
}

template <typename T, typename Z>
Status soft_cross_entropy_backward_cuda(const SoftCrossEntropyBackward<T, Z>& problem,
                                        void* workspace, Stream stream) {
  const int64_t rows = problem.rows;
  const int64_t dim = problem.dim;
  const int64_t num_codes = problem.num_codes;
  const Geometry<T> geometry(rows, num_codes);
  const T scale = soft_codes::score_scale<T>(problem.temperature);
  T* packed = static_cast<T*>(workspace);
  T* residue = packed + geometry.packed_size(dim);
  T* partial = residue + rows;
  if (rows > 0) {
    if (const Status status = pack_codes(problem.codebook, packed, num_codes, dim, stream)) {
      return status;
    }
    const Problem<T, Z> walk = {problem.features,
                                packed,
                                problem.logits,
                                rows,
                                num_codes,
                                geometry.padded_codes,
                                dim,
                                scale,
                                fits_quads(num_codes, problem.logits, problem.grad_logits)};
    const Saved<T> saved = {problem.grad, problem.indices, problem.statistics};
    const Cut& over_codes = geometry.over_codes;
    if (const Status status = start(
            over_codes.grid(geometry.row_tiles, stream), backward_rows_kernel<T, Z>, walk, saved,
            over_codes, problem.grad_logits, partial, problem.grad_features != nullptr)) {
      return status;
    }
    if (const Status status = start(thread_each(rows * dim, stream), finish_rows_kernel<T>, partial,
                                    problem.codebook, saved, problem.grad_features, residue, rows,
                                    num_codes, dim, over_codes.parts, scale)) {
      return status;
    }
    if (problem.grad_codebook != nullptr) {
      const Cut& over_rows = geometry.over_rows;
      if (const Status status =
              start(over_rows.grid(geometry.code_tiles, stream), backward_codes_kernel<T, Z>, walk,
                    saved, over_rows, residue, partial)) {
        return status;
      }
    }
  }
  if (problem.grad_codebook == nullptr) {
    return nullptr;
  }
  // Without rows there are no parts: zeros.
  return start(thread_each(num_codes * dim, stream), finish_codes_kernel<T>, partial,
               problem.codebook, problem.grad_codebook, num_codes, dim, geometry.over_rows.parts,
               scale);
}

template int64_t soft_cross_entropy_backward_workspace_bytes<float>(int64_t, int64_t, int64_t,
                                                                    bool);
template int64_t soft_cross_entropy_backward_workspace_bytes<double>(int64_t, int64_t, int64_t,
                                                                     bool);

#define GENACCEL_INSTANTIATE(T, Z)                                                              \
  template Status soft_cross_entropy_backward_cuda<T, Z>(const SoftCrossEntropyBackward<T, Z>&, \
                                                         void*, Stream);
GENACCEL_INSTANTIATE(float, float)
GENACCEL_INSTANTIATE(float, Half)
GENACCEL_INSTANTIATE(float, BFloat16)
GENACCEL_INSTANTIATE(double, double)
#undef GENACCEL_INSTANTIATE

}  // namespace genaccel::quantize
