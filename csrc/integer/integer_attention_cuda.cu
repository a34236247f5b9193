// SPDX-License-Identifier: Apache-2.0
// One warp per query and head: lanes share the keys for scores and weights, which stay in shared
// memory, and the channels for the weighted sum.
#include <cuda_runtime.h>

#include "common/integer.h"
#include "common/launch.cuh"
#include "common/read_once.h"
#include "common/reduce.cuh"
#include "integer/integer_attention.h"

namespace genaccel::integer {
namespace {

constexpr int kThreads = 128;
constexpr int kQueriesPerBlock = kThreads / kWarpSize;

__global__ void __launch_bounds__(kThreads) integer_attention_kernel(Attention p, int64_t units) {
  __shared__ int32_t all_weights[kQueriesPerBlock][kMaxKeys];  // scores first
  const int64_t unit =
      static_cast<int64_t>(blockIdx.x) * kQueriesPerBlock + threadIdx.x / kWarpSize;
  const int lane = threadIdx.x % kWarpSize;
  if (unit >= units) {
    return;  // whole warps leave together
  }
  int32_t* weights = all_weights[threadIdx.x / kWarpSize];
  const int64_t head = unit % p.heads;
  const int64_t token = unit / p.heads % p.tokens;
  const int64_t batch = unit / p.heads / p.tokens;
  const int64_t stride = p.heads * p.channels;
  const int8_t* query = p.query + unit * p.channels;
  const int64_t offset = batch * p.keys * stride + head * p.channels;
  int8_t* out = p.out + unit * p.channels;
  const int64_t visible = read_once(p.visible + token);
  const int64_t keys = visible < p.keys ? visible : p.keys;
  if (keys <= 0) {
    for (int64_t c = lane; c < p.channels; c += kWarpSize) {
      out[c] = 0;
    }
    return;
  }
  int32_t largest = INT32_MIN;
  for (int64_t j = lane; j < keys; j += kWarpSize) {
    int32_t score = 0;
    for (int64_t c = 0; c < p.channels; ++c) {
      score += query[c] * p.key[offset + j * stride + c];
    }
    weights[j] = score;
    largest = score > largest ? score : largest;
  }
  for (int step = kWarpSize / 2; step > 0; step /= 2) {
    const int32_t other = __shfl_xor_sync(0xffffffffu, largest, step);
    largest = other > largest ? other : largest;
  }
  const auto temperature = static_cast<uint32_t>(p.temperature[head]);
  const uint32_t limit = largest_below(temperature);
  uint32_t sum = 0;
  for (int64_t j = lane; j < keys; j += kWarpSize) {
    const auto below = static_cast<uint32_t>(largest - weights[j]);
    const uint32_t weight = attention_weight(below, temperature, limit);
    weights[j] = static_cast<int32_t>(weight);
    sum += weight;
  }
  const Reciprocal r = reciprocal(warp_sum(sum), p.gain);
  __syncwarp();  // all weights are there
  for (int64_t c = lane; c < p.channels; c += kWarpSize) {
    int32_t weighted_sum = 0;
    for (int64_t j = 0; j < keys; ++j) {
      weighted_sum += weights[j] * p.value[offset + j * stride + c];
    }
    out[c] = averaged(weighted_sum, r);
  }
}

}  // namespace

Status integer_attention_cuda(const Attention& problem, int64_t batch, Stream stream) {
  const int64_t units = batch * problem.tokens * problem.heads;
  return start({ceil_div(units, kQueriesPerBlock), kThreads, stream}, integer_attention_kernel,
               problem, units);
}

}  // namespace genaccel::integer
