// SPDX-License-Identifier: Apache-2.0
// Bridge: indices of the `selected` largest scores of each row [batch, tokens], ascending; among
// equal scores the lowest index first. The batch is `groups` parts of `rows` rows that share their
// tokens: their scores are summed, and each part gets the same indices.
#pragma once

#include <cstdint>

#include "common/status.h"
#include "common/stream.h"
#include "tokens/select_tokens_math.h"

namespace genaccel::tokens {

// Rows [begin, end) of a part: score [groups, rows, tokens] to index [groups, rows, selected].
void select_tokens_cpu(const float* score, int64_t* index, int64_t begin, int64_t end, int64_t rows,
                       int64_t groups, int64_t tokens, int64_t selected);

// At most 2^30 tokens.
Status select_tokens_cuda(const float* score, int64_t* index, int64_t rows, int64_t groups,
                          int64_t tokens, int64_t selected, Stream stream);

}  // namespace genaccel::tokens
