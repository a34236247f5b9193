// SPDX-License-Identifier: Apache-2.0
// Bridge: rows of a cache moved to the front, in place. For each sequence of the batch and each
// head, the row sources[k] goes to starts + k, for k = 0, 1, ... below counts. Sources rise, and
// none stands before its target: so a row that is written over has been read before.
#pragma once

#include <cstdint>

#include "common/status.h"
#include "common/stream.h"

namespace genaccel::decoding {

// A tensor [batch, heads, rows, row_bytes] of bytes, whose elements lie apart; strides are bytes.
struct States {
  char* data;
  int64_t batch_stride, head_stride, row_stride;
};

struct Compaction {
  const int64_t* sources;  // [batch, moves]
  const int64_t* starts;   // [batch]
  const int64_t* counts;   // [batch]
  int64_t batch, heads, rows, moves, row_bytes;
};

// Heads [begin, end) of the batch * heads that there are.
void compact_rows_cpu(const Compaction& compaction, const States& states, int64_t begin,
                      int64_t end);

// Of all tensors, in as few launches as there are each kMaxStates of them.
Status compact_rows_cuda(const Compaction& compaction, const States* states, int64_t count,
                         Stream stream);

}  // namespace genaccel::decoding
