// SPDX-License-Identifier: Apache-2.0
// Bridge: rows of integer logits to cumulative tables of 2^16, of all symbols, of groups of
// neighbours, or of the members of one group per row.
#pragma once

#include <cstdint>

#include "common/integer.h"
#include "common/read_once.h"
#include "common/status.h"
#include "common/stream.h"
#include "integer/integer_frequencies_math.h"

namespace genaccel::integer {

struct Frequencies {
  const int32_t* logits;  // [rows, symbols], octaves with fraction_bits
  const int64_t* group;   // [rows]: whose members to tabulate; null: the groups
  int32_t* out;           // [rows, entries + 1]
  int64_t symbols;        // at most kMaxSymbols
  int64_t group_size;     // divides symbols
  int fraction_bits;      // 0 to kMaxFractionBits

  // The logits of a row's entries: all, or those of its group's members. A group that does not
  // exist, for which a GPU cannot raise an error, is the first one.
  GENACCEL_HOST_DEVICE const int32_t* row_logits(int64_t row) const {
    const int64_t chosen =
        group != nullptr ? existing_index(read_once(group + row), symbols / group_size) : 0;
    return logits + row * symbols + chosen * group_size;
  }

  GENACCEL_HOST_DEVICE int64_t entries() const {
    return group != nullptr ? group_size : symbols / group_size;
  }
};

// Rows [begin, end).
void integer_frequencies_cpu(const Frequencies& problem, int64_t begin, int64_t end);

Status integer_frequencies_cuda(const Frequencies& problem, int64_t rows, Stream stream);

}  // namespace genaccel::integer
