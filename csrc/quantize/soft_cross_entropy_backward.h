// SPDX-License-Identifier: Apache-2.0
// Bridge: gradients of the soft cross-entropy, in a second walk over the code words. All arrays are
// dense; the types are those of the forward. Nothing of size rows x num_codes is stored but the
// gradient of the logits.
#pragma once

#include <cstdint>

#include "common/status.h"
#include "common/stream.h"

namespace genaccel::quantize {

template <typename T, typename Z>
struct SoftCrossEntropyBackward {
  const T* grad;           // [rows], of the rate
  const T* features;       // [rows, dim]
  const T* codebook;       // [num_codes, dim]
  const Z* logits;         // [rows, num_codes]
  const int64_t* indices;  // [rows], any that does not exist counts as 0; these two come from the
                           // forward
  const T* statistics;     // [rows, soft_codes::kStatistics]
  int64_t rows, num_codes, dim;
  double temperature;
  // Results; nullptr: not wanted.
  T* grad_features;
  T* grad_codebook;
  Z* grad_logits;
};

// Rows [begin, end) of all but the codebook's, and residue [rows], the sum of w. packed is that of
// the forward.
template <typename T, typename Z>
void soft_cross_entropy_backward_cpu(const SoftCrossEntropyBackward<T, Z>& problem, const T* packed,
                                     T* residue, int64_t begin, int64_t end);

// The gradient of the codebook goes tile by tile of code words: one thread sums all rows of a tile,
// in their order, so that the number of threads changes nothing.
template <typename T>
int64_t soft_code_tiles(int64_t num_codes);

// Tiles [begin, end), after the rows, whose residue it reads.
template <typename T, typename Z>
void soft_codebook_backward_cpu(const SoftCrossEntropyBackward<T, Z>& problem, const T* packed,
                                const T* residue, int64_t begin, int64_t end);

template <typename T>
int64_t soft_cross_entropy_backward_workspace_bytes(int64_t rows, int64_t num_codes, int64_t dim,
                                                    bool with_codebook);

template <typename T, typename Z>
Status soft_cross_entropy_backward_cuda(const SoftCrossEntropyBackward<T, Z>& problem,
                                        void* workspace, Stream stream);

}  // namespace genaccel::quantize
