// SPDX-License-Identifier: Apache-2.0
// The cut between selected and other keys by partial ordering; then one walk in index order.
#include <algorithm>
#include <functional>
#include <vector>

#include "tokens/select_tokens.h"

namespace genaccel::tokens {

void select_tokens_cpu(const float* score, int64_t* index, int64_t begin, int64_t end, int64_t rows,
                       int64_t groups, int64_t tokens, int64_t selected) {
  if (selected == 0) {
    return;
  }
  std::vector<uint32_t> keys(tokens);
  std::vector<uint32_t> ordered(tokens);
  for (int64_t row = begin; row < end; ++row) {
    for (int64_t i = 0; i < tokens; ++i) {
      keys[i] = ordered_key(summed_score(score + row * tokens + i, groups, rows * tokens));
    }
    ordered = keys;
    const auto last = ordered.begin() + (selected - 1);
    std::nth_element(ordered.begin(), last, ordered.end(), std::greater<uint32_t>());
    const uint32_t cut = *last;
    const int64_t above =
        std::count_if(ordered.begin(), last, [cut](uint32_t k) { return k > cut; });
    int64_t ties_left = selected - above;

    int64_t* out = index + row * selected;
    int64_t count = 0;
    for (int64_t i = 0; i < tokens && count < selected; ++i) {
      // Written before it is known whether it stays: no branch that depends on random scores.
      out[count] = i;
      const bool tie = keys[i] == cut && ties_left > 0;
      ties_left -= tie;
      count += keys[i] > cut || tie;
    }
    for (int64_t group = 1; group < groups; ++group) {
      std::copy_n(out, selected, out + group * rows * selected);
    }
  }
}

}  // namespace genaccel::tokens
