// SPDX-License-Identifier: Apache-2.0
// One pass over the nodes: children stand behind their parents.
#include <algorithm>

#include "decoding/accept_tree.h"

namespace genaccel::decoding {

void accept_tree_cpu(const TreeWalk& walk, int64_t begin, int64_t end) {
  for (int64_t sequence = begin; sequence < end; ++sequence) {
    const int64_t* tokens = walk.tokens + sequence * walk.nodes;
    const int64_t* drawn = walk.drawn + sequence * walk.nodes;
    int64_t* path = walk.path + sequence * walk.length;
    int64_t node = 0;
    int64_t count = 1;
    path[0] = 0;
    for (int64_t next = 1; next < walk.nodes && count < walk.length; ++next) {
      if (walk.parents[next] == node && tokens[next] == drawn[node]) {
        node = next;
        path[count++] = next;
      }
    }
    std::fill(path + count, path + walk.length, int64_t{-1});
    walk.counts[sequence] = count;
  }
}

}  // namespace genaccel::decoding
