// SPDX-License-Identifier: Apache-2.0
// A block of one warp a sequence: each lane compares a node, and a ballot finds the first that goes
// on. Trees have some tens of nodes: one or two rounds, and a ballot for each level.
#include <cuda_runtime.h>

#include "common/launch.cuh"
#include "common/reduce.cuh"
#include "decoding/accept_tree.h"

namespace genaccel::decoding {
namespace {

constexpr unsigned kAllLanes = 0xffffffffu;

__global__ void __launch_bounds__(kWarpSize) accept_tree_kernel(const TreeWalk walk) {
  const int lane = static_cast<int>(threadIdx.x);
  const int64_t sequence = blockIdx.x;
  const int64_t* tokens = walk.tokens + sequence * walk.nodes;
  const int64_t* drawn = walk.drawn + sequence * walk.nodes;
  int64_t* path = walk.path + sequence * walk.length;
  int64_t node = 0;
  int64_t count = 1;
  int64_t wanted = drawn[0];
  if (lane == 0) {
    path[0] = 0;
  }
  for (int64_t first = 1; first < walk.nodes && count < walk.length; first += kWarpSize) {
    const int64_t own = first + lane;
    const bool is_node = own < walk.nodes;
    const int64_t parent = is_node ? walk.parents[own] : -1;
    const int64_t token = is_node ? tokens[own] : 0;
    unsigned behind = kAllLanes;  // lanes whose nodes stand behind the one that was reached
    while (count < walk.length) {
      // Each lane decides about its own node alone, so that all agree on what the ballot says.
      const unsigned found =
          __ballot_sync(kAllLanes, is_node && parent == node && token == wanted) & behind;
      if (found == 0) {
        break;
      }
      const int next = __ffs(static_cast<int>(found)) - 1;
      node = first + next;
      wanted = drawn[node];
      behind = kAllLanes << next << 1;
      if (lane == 0) {
        path[count] = node;
      }
      ++count;
    }
  }
  for (int64_t i = count + lane; i < walk.length; i += kWarpSize) {
    path[i] = -1;
  }
  if (lane == 0) {
    walk.counts[sequence] = count;
  }
}

}  // namespace

Status accept_tree_cuda(const TreeWalk& walk, int64_t sequences, Stream stream) {
  return start({sequences, kWarpSize, stream}, accept_tree_kernel, walk);
}

}  // namespace genaccel::decoding
