// SPDX-License-Identifier: Apache-2.0
// Bridge: what was drawn, followed down a tree of guesses. Node 0 is the root, and a node's parent
// stands before it. From each node the walk goes on to its first child that has the token which was
// drawn after the node; the other siblings need not be looked at, since they stand behind it.
#pragma once

#include <cstdint>

#include "common/status.h"
#include "common/stream.h"

namespace genaccel::decoding {

struct TreeWalk {
  const int64_t* parents;  // [nodes], the root's is not looked at
  const int64_t* tokens;   // [sequences, nodes], the root's are not looked at
  const int64_t* drawn;    // [sequences, nodes]
  int64_t* path;           // [sequences, length]: nodes from the root on, -1 behind the last
  int64_t* counts;         // [sequences]: nodes of the path
  int64_t nodes;           // at least 1
  int64_t length;          // at least 1
};

// Sequences [begin, end).
void accept_tree_cpu(const TreeWalk& walk, int64_t begin, int64_t end);

Status accept_tree_cuda(const TreeWalk& walk, int64_t sequences, Stream stream);

}  // namespace genaccel::decoding
