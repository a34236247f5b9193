// SPDX-License-Identifier: Apache-2.0
// Scalar rules of nearest-code search, shared by the CPU and the CUDA code.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/host_device.h"

namespace genaccel::quantize {

// Factor that brings a row of this squared norm to unit length; the floor is that of
// torch.nn.functional.normalize, so that a zero row stays zero.
template <typename T>
GENACCEL_HOST_DEVICE T inverse_norm(T squared_norm) {
  using std::sqrt;
  const T norm = sqrt(squared_norm);
  const T floor = static_cast<T>(1e-12);
  return static_cast<T>(1) / (norm > floor ? norm : floor);
}

// Whether candidate (score, index) replaces the best so far: larger cosine first, then lower index.
template <typename T, typename Index>
GENACCEL_HOST_DEVICE bool is_better(T score, Index index, T best_score, Index best_index) {
  return score > best_score || (score == best_score && index < best_index);
}

}  // namespace genaccel::quantize
