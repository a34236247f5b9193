// SPDX-License-Identifier: Apache-2.0
#include <cstring>

#include "common/read_once.h"
#include "decoding/compact_rows.h"

namespace genaccel::decoding {

void compact_rows_cpu(const Compaction& compaction, const States& states, int64_t begin,
                      int64_t end) {
  const auto rows = static_cast<uint64_t>(compaction.rows);
  for (int64_t head = begin; head < end; ++head) {
    const int64_t sequence = head / compaction.heads;
    char* data =
        states.data + sequence * states.batch_stride + head % compaction.heads * states.head_stride;
    const int64_t* sources = compaction.sources + sequence * compaction.moves;
    const auto first = static_cast<uint64_t>(read_once(compaction.starts + sequence));
    const int64_t count = read_once(compaction.counts + sequence);
    for (int64_t k = 0; k < count && k < compaction.moves; ++k) {
      // Unsigned: what is below 0 is too large.
      const auto source = static_cast<uint64_t>(read_once(sources + k));
      const uint64_t target = first + static_cast<uint64_t>(k);
      if (source < rows && target < rows && source != target) {
        std::memcpy(data + static_cast<int64_t>(target) * states.row_stride,
                    data + static_cast<int64_t>(source) * states.row_stride,
                    static_cast<size_t>(compaction.row_bytes));
      }
    }
  }
}

}  // namespace genaccel::decoding
