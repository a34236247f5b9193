// SPDX-License-Identifier: Apache-2.0
// The sum of a depth's code words, then its square; a set has some hundred tokens.
#include <algorithm>
#include <vector>

#include "common/integer.h"
#include "common/read_once.h"
#include "decoding/path_similarity.h"

namespace genaccel::decoding {

template <typename T>
void path_similarity_cpu(const PathSets<T>& sets, int64_t begin, int64_t end) {
  std::vector<double> sum(sets.channels);
  for (int64_t set = begin; set < end; ++set) {
    double weighted = 0;
    double all_weights = 0;
    bool is_reached = false;  // depths that no path reaches have no weight
    for (int64_t level = sets.depth - 1; level >= 0; --level) {
      const int64_t* token = sets.paths + set * sets.num_paths * sets.depth + level;
      std::fill(sum.begin(), sum.end(), 0.0);
      double own = 0;  // pairs of a path with itself
      for (int64_t path = 0; path < sets.num_paths; ++path, token += sets.depth) {
        const int64_t code = read_once(token);
        if (code < 0) {
          continue;
        }
        is_reached = true;
        const T* vector = sets.unit_codes + existing_index(code, sets.num_codes) * sets.channels;
        for (int64_t c = 0; c < sets.channels; ++c) {
          const double value = static_cast<double>(vector[c]);
          sum[c] += value;
          own += value * value;
        }
      }
      double square = 0;
      for (const double value : sum) {
        square += value * value;
      }
      if (is_reached) {
        weighted += sets.weights[level] * (square - own);
        all_weights += sets.weights[level];
      }
    }
    const double pairs =
        static_cast<double>(sets.num_paths) * static_cast<double>(sets.num_paths - 1);
    sets.similarity[set] = is_reached && pairs > 0 ? weighted / all_weights / pairs : 0.0;
  }
}

template void path_similarity_cpu<float>(const PathSets<float>&, int64_t, int64_t);
template void path_similarity_cpu<double>(const PathSets<double>&, int64_t, int64_t);

}  // namespace genaccel::decoding
