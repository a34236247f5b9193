// SPDX-License-Identifier: Apache-2.0
// Soft cross-entropy on the GPU: each thread keeps running sums of its part of 4 rows, as flash
// attention does, which meet only at the end: first those of the threads of a row, then those of
// the parts into which the walk over the code words is cut to fill the chip.
#include <cuda_runtime.h>

#include "common/half.h"
#include "common/integer.h"
#include "common/launch.cuh"
#include "quantize/code_tiles_shared.cuh"
#include "quantize/soft_cross_entropy.h"

namespace genaccel::quantize {
namespace {

using namespace code_tiles;
using soft_codes::bits_from_nats;

// The sums of a row over some code words, relative to the largest score and logit among them.
template <typename T>
struct RunningRow {
  T best, soft_sum, largest, logit_sum, weighted;  // weighted: sum of e^(scale (score - best)) t
  int index;

  __device__ __forceinline__ void clear() {
    best = -static_cast<T>(INFINITY);
    largest = soft_codes::lowest<T>();
    soft_sum = logit_sum = weighted = 0;
    index = 0;
  }

  // Takes these as the largest score and logit.
  __device__ __forceinline__ void rebase(T new_best, T new_largest, T scale) {
    // Not for equal ones: both can be -inf.
    const T shrink =
        best == new_best ? T(1) : power_of_two(bits_from_nats((best - new_best) * scale));
    soft_sum *= shrink;
    weighted = weighted * shrink + soft_sum * (largest - new_largest);
    logit_sum *= power_of_two(bits_from_nats(largest - new_largest));
    best = new_best;
    largest = new_largest;
  }

  __device__ __forceinline__ void merge(RunningRow other, T scale) {
    const bool is_other = other.best > best || (other.best == best && other.index < index);
    index = is_other ? other.index : index;
    const T new_best = is_other ? other.best : best;
    const T new_largest = other.largest > largest ? other.largest : largest;
    rebase(new_best, new_largest, scale);
    other.rebase(new_best, new_largest, scale);
    soft_sum += other.soft_sum;
    logit_sum += other.logit_sum;
    weighted += other.weighted;
  }

  __device__ __forceinline__ RunningRow from_lane(int offset) const {
    RunningRow other;
    other.best = __shfl_xor_sync(0xffffffffu, best, offset);
    other.soft_sum = __shfl_xor_sync(0xffffffffu, soft_sum, offset);
    other.largest = __shfl_xor_sync(0xffffffffu, largest, offset);
    other.logit_sum = __shfl_xor_sync(0xffffffffu, logit_sum, offset);
    other.weighted = __shfl_xor_sync(0xffffffffu, weighted, offset);
    other.index = __shfl_xor_sync(0xffffffffu, index, offset);
    return other;
  }
};

// partial [parts, rows]
template <typename T, typename Z>
__global__ void __launch_bounds__(kThreads, kResident<T>)
    forward_kernel(Problem<T, Z> problem, Cut cut, RunningRow<T>* __restrict__ partial) {
  __shared__ Tile<T> tile;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kTileRows;
  const int64_t begin = cut.begin();
  const int64_t end = cut.end();
  RunningRow<T> state[kOwnRows];
#pragma unroll
  for (int i = 0; i < kOwnRows; ++i) {
    state[i].clear();
  }
  for (int64_t t = begin; t < end; ++t) {
    const int64_t first_code = t * kTileCodes<T>;
    OwnLogits<T, Z> logits;
    logits.load(problem, first_row, first_code);
    Own<T> score;
    score_tile(tile, problem, first_row, first_code, t > begin, false, score);
#pragma unroll
    for (int i = 0; i < kOwnRows; ++i) {
      T best = state[i].best;
      T largest = state[i].largest;
#pragma unroll
      for (int j = 0; j < kOwnCodes<T>; ++j) {
        const int64_t k = first_code + own_code<T>(j);
        if (score[i][j] > best) {  // strict: the lower index keeps a tie; padding is -inf
          best = score[i][j];
          state[i].index = static_cast<int>(k);
        }
        if (k < problem.num_codes && logits.at(i, j) > largest) {
          largest = logits.at(i, j);
        }
      }
      state[i].rebase(best, largest, problem.scale);
#pragma unroll
      for (int j = 0; j < kOwnCodes<T>; ++j) {
        if (first_code + own_code<T>(j) < problem.num_codes) {
          const T p = power_of_two(bits_from_nats((score[i][j] - best) * problem.scale));
          const T u = logits.at(i, j) - largest;
          state[i].soft_sum += p;
          state[i].weighted += p * u;
          state[i].logit_sum += power_of_two(bits_from_nats(u));
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kOwnRows; ++i) {
    for (int offset = kColumns / 2; offset > 0; offset /= 2) {
      state[i].merge(state[i].from_lane(offset), problem.scale);
    }
    const int64_t n = first_row + own_row(i);
    if (threadIdx.x % kColumns == 0 && n < problem.rows) {
      partial[blockIdx.y * problem.rows + n] = state[i];
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    finish_forward_kernel(const RunningRow<T>* __restrict__ partial, T* __restrict__ rate,
                          int64_t* __restrict__ indices, T* __restrict__ statistics, int64_t rows,
                          int64_t parts, T scale) {
  const int64_t n = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (n >= rows) {
    return;
  }
  RunningRow<T> state = partial[n];
  for (int64_t part = 1; part < parts; ++part) {
    state.merge(partial[part * rows + n], scale);
  }
  T* out = statistics + n * soft_codes::kStatistics;
  out[soft_codes::kBestScore] = state.best;
  out[soft_codes::kSoftSum] = state.soft_sum;
  out[soft_codes::kLargestLogit] = state.largest;
  out[soft_codes::kLogitSum] = state.logit_sum;
  out[soft_codes::kMeanLogit] = state.weighted / state.soft_sum;
  rate[n] = rate_in_bits(out[soft_codes::kLogitSum], out[soft_codes::kMeanLogit]);
  indices[n] = state.index;
}

}  // namespace

template <typename T>
int64_t soft_cross_entropy_workspace_bytes(int64_t rows, int64_t num_codes, int64_t dim) {
  const Geometry<T> geometry(rows, num_codes);
  return geometry.packed_size(dim) * static_cast<int64_t>(sizeof(T)) +
         geometry.over_codes.parts * rows * static_cast<int64_t>(sizeof(RunningRow<T>));
}

template <typename T, typename Z>
Status soft_cross_entropy_cuda(const SoftCrossEntropy<T, Z>& problem, void* workspace,
                               Stream stream) {
  const int64_t rows = problem.rows;
  if (rows == 0) {
    return nullptr;
  }
  const Geometry<T> geometry(rows, problem.num_codes);
  const T scale = soft_codes::score_scale<T>(problem.temperature);
  T* packed = static_cast<T*>(workspace);
  auto* partial = reinterpret_cast<RunningRow<T>*>(packed + geometry.packed_size(problem.dim));
  if (const Status status =
          pack_codes(problem.codebook, packed, problem.num_codes, problem.dim, stream)) {
    return status;
  }
  const Problem<T, Z> walk = {problem.features,
                              packed,
                              problem.logits,
                              rows,
                              problem.num_codes,
                              geometry.padded_codes,
                              problem.dim,
                              scale,
                              fits_quads(problem.num_codes, problem.logits)};
  const Cut& cut = geometry.over_codes;
  if (const Status status =
          start(cut.grid(geometry.row_tiles, stream), forward_kernel<T, Z>, walk, cut, partial)) {
    return status;
  }
  return start(thread_each(rows, stream), finish_forward_kernel<T>, partial, problem.rate,
               problem.indices, problem.statistics, rows, cut.parts, scale);
}

template int64_t soft_cross_entropy_workspace_bytes<float>(int64_t, int64_t, int64_t);
template int64_t soft_cross_entropy_workspace_bytes<double>(int64_t, int64_t, int64_t);

#define GENACCEL_INSTANTIATE(T, Z) \
  template Status soft_cross_entropy_cuda<T, Z>(const SoftCrossEntropy<T, Z>&, void*, Stream);
GENACCEL_INSTANTIATE(float, float)
GENACCEL_INSTANTIATE(float, Half)
GENACCEL_INSTANTIATE(float, BFloat16)
GENACCEL_INSTANTIATE(double, double)
#undef GENACCEL_INSTANTIATE

}  // namespace genaccel::quantize
