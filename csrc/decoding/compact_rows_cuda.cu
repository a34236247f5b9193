// SPDX-License-Identifier: Apache-2.0
// A block a head of a tensor. Each thread moves its own bytes of one row after the other, so that
// what a row is written over with was read by the same thread before, and nobody waits.
#include <cuda_runtime.h>

#include "common/launch.cuh"
#include "decoding/compact_rows.h"

namespace genaccel::decoding {
namespace {

constexpr int kThreads = 32;    // 512 bytes of a row
constexpr int kMaxStates = 64;  // with their strides they fit the 4 KiB of a kernel's parameters

struct Table {
  States states[kMaxStates];
};

template <typename Word>
__global__ void __launch_bounds__(kThreads)
    compact_rows_kernel(const Compaction compaction, const __grid_constant__ Table table) {
  const States& states = table.states[blockIdx.y];
  const int64_t head = blockIdx.x;
  const int64_t sequence = head / compaction.heads;
  char* data =
      states.data + sequence * states.batch_stride + head % compaction.heads * states.head_stride;
  const int64_t* sources = compaction.sources + sequence * compaction.moves;
  const auto rows = static_cast<uint64_t>(compaction.rows);
  const auto first = static_cast<uint64_t>(compaction.starts[sequence]);
  const int64_t count = compaction.counts[sequence];
  const int64_t width = static_cast<int64_t>(sizeof(Word));
  for (int64_t byte = threadIdx.x * width; byte < compaction.row_bytes; byte += kThreads * width) {
    for (int64_t k = 0; k < count && k < compaction.moves; ++k) {
      // Unsigned: what is below 0 is too large.
      const auto source = static_cast<uint64_t>(sources[k]);
      const uint64_t target = first + static_cast<uint64_t>(k);
      if (source < rows && target < rows && source != target) {
        const char* from = data + static_cast<int64_t>(source) * states.row_stride + byte;
        char* to = data + static_cast<int64_t>(target) * states.row_stride + byte;
        *reinterpret_cast<Word*>(to) = *reinterpret_cast<const Word*>(from);
      }
    }
  }
}

// Whether all rows of these tensors begin and end at multiples of so many bytes.
bool fits_words(const Compaction& compaction, const States* states, int64_t count, int64_t width) {
  uint64_t all = static_cast<uint64_t>(compaction.row_bytes);
  for (int64_t i = 0; i < count; ++i) {
    all |= reinterpret_cast<uintptr_t>(states[i].data) |
           static_cast<uint64_t>(states[i].batch_stride) |
           static_cast<uint64_t>(states[i].head_stride) |
           static_cast<uint64_t>(states[i].row_stride);
  }
  return all % static_cast<uint64_t>(width) == 0;
}

}  // namespace

Status compact_rows_cuda(const Compaction& compaction, const States* states, int64_t count,
                         Stream stream) {
  const bool has_wide_words = fits_words(compaction, states, count, 16);
  const bool has_words = fits_words(compaction, states, count, 4);
  for (int64_t first = 0; first < count; first += kMaxStates) {
    const int64_t rest = count - first < kMaxStates ? count - first : kMaxStates;
    Table table = {};
    for (int64_t i = 0; i < rest; ++i) {
      table.states[i] = states[first + i];
    }
    const Grid grid = {compaction.batch * compaction.heads, kThreads, stream, rest};
    const Status status = has_wide_words ? start(grid, compact_rows_kernel<int4>, compaction, table)
                          : has_words ? start(grid, compact_rows_kernel<int32_t>, compaction, table)
                                      : start(grid, compact_rows_kernel<int8_t>, compaction, table);
    if (status != nullptr) {
      return status;
    }
  }
  return nullptr;
}

}  // namespace genaccel::decoding
