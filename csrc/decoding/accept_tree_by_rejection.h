// SPDX-License-Identifier: Apache-2.0
// Bridge: which guesses of a tree are accepted by rejection sampling, exact or relaxed. Node 0 is
// the root, and a node's parent stands before it. accept_tree_by_rejection_math.h has the rule.
#pragma once

#include <cstdint>

#include "common/status.h"
#include "common/stream.h"
#include "decoding/accept_tree_by_rejection_math.h"

namespace genaccel::decoding {

// Sequences [begin, end).
template <typename T>
void accept_tree_by_rejection_cpu(const TreeRejection<T>& tree, int64_t begin, int64_t end);

template <typename T>
Status accept_tree_by_rejection_cuda(const TreeRejection<T>& tree, int64_t sequences,
                                     Stream stream);

}  // namespace genaccel::decoding
