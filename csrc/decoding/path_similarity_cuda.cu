// SPDX-License-Identifier: Apache-2.0
// A block a set. A thread sums one channel at one depth over all paths, so that its loads do not
// wait for each other; squares are added up at the end.
#include <cuda_runtime.h>

#include "common/integer.h"
#include "common/launch.cuh"
#include "decoding/block_shared.cuh"
#include "decoding/path_similarity.h"

namespace genaccel::decoding {
namespace {

constexpr int kThreads = 128;

template <typename T>
__global__ void __launch_bounds__(kThreads) path_similarity_kernel(const PathSets<T> sets) {
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t size = sets.num_paths * sets.depth;
  const int64_t* tokens = sets.paths + blockIdx.x * size;
  int64_t reached = 0;  // depths that some path reaches: the others have no weight
  for (int64_t i = thread; i < size; i += kThreads) {
    const int64_t depth = i % sets.depth + 1;
    reached = tokens[i] >= 0 && depth > reached ? depth : reached;
  }
  reached = block_largest<kThreads>(reached);

  double weighted = 0;
  for (int64_t i = thread; i < reached * sets.channels; i += kThreads) {
    const int64_t level = i / sets.channels;
    const int64_t channel = i % sets.channels;
    double sum = 0;
    double own = 0;  // pairs of a path with itself
#pragma unroll 4
    for (int64_t path = 0; path < sets.num_paths; ++path) {
      const int64_t token = tokens[path * sets.depth + level];
      const int64_t code = existing_index(token, sets.num_codes);
      const T loaded = sets.unit_codes[code * sets.channels + channel];
      const double value = token < 0 ? 0.0 : static_cast<double>(loaded);
      sum += value;
      own += value * value;
    }
    weighted += sets.weights[level] * (sum * sum - own);
  }
  weighted = block_sum<kThreads>(weighted);
  if (thread == 0) {
    double all_weights = 0;
    for (int64_t level = 0; level < reached; ++level) {
      all_weights += sets.weights[level];
    }
    const double pairs =
        static_cast<double>(sets.num_paths) * static_cast<double>(sets.num_paths - 1);
    sets.similarity[blockIdx.x] = reached > 0 && pairs > 0 ? weighted / all_weights / pairs : 0.0;
  }
}

}  // namespace

template <typename T>
Status path_similarity_cuda(const PathSets<T>& sets, int64_t count, Stream stream) {
  return start({count, kThreads, stream}, path_similarity_kernel<T>, sets);
}

template Status path_similarity_cuda<float>(const PathSets<float>&, int64_t, Stream);
template Status path_similarity_cuda<double>(const PathSets<double>&, int64_t, Stream);

}  // namespace genaccel::decoding
