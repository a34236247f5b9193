// SPDX-License-Identifier: Apache-2.0
// Bridge: how alike the paths of each set are: the mean cosine of all pairs of paths at each depth,
// averaged with the weights of the depths (VVS, arXiv:2511.13587, equations 3 to 5). For all pairs
// of unit vectors e together it is (|sum e|^2 - sum |e|^2) / 2, so that no pair is looked at.
#pragma once

#include <cstdint>

#include "common/status.h"
#include "common/stream.h"

namespace genaccel::decoding {

template <typename T>
struct PathSets {
  const int64_t* paths;   // [sets, num_paths, depth]: code words, below 0 behind the end of a path
  const T* unit_codes;    // [num_codes, channels], at least one code word
  const double* weights;  // [depth]
  double* similarity;     // [sets]
  int64_t num_paths, depth, num_codes, channels;
};

// Sets [begin, end).
template <typename T>
void path_similarity_cpu(const PathSets<T>& sets, int64_t begin, int64_t end);

template <typename T>
Status path_similarity_cuda(const PathSets<T>& sets, int64_t count, Stream stream);

}  // namespace genaccel::decoding
