// SPDX-License-Identifier: Apache-2.0
// Weights of a row by vectors, then their sums and one division per entry.
#include <vector>

#include "integer/integer_frequencies.h"
#include "integer/simd_shared.h"

namespace genaccel::integer {
namespace {

struct FrequencyRows {
  template <typename Isa>
  GENACCEL_HOST_DEVICE static void run(const Frequencies* problem, uint32_t* weights, int64_t begin,
                                       int64_t end) {
    const Frequencies p = *problem;
    const int64_t entries = p.entries();
    const int64_t count = p.group != nullptr ? p.group_size : p.symbols;
    const int64_t span = p.group != nullptr ? 1 : p.group_size;
    for (int64_t row = begin; row < end; ++row) {
      // From a copy: without the largest among them, the weights could all be zero.
      __builtin_memcpy(weights, p.row_logits(row), count * sizeof(int32_t));
      int32_t largest = INT32_MIN;
      for (int64_t s = 0; s < count; ++s) {
        const auto logit = static_cast<int32_t>(weights[s]);
        largest = logit > largest ? logit : largest;
      }
      const auto top = static_cast<uint32_t>(largest);
      int64_t s = 0;
      for (; s + simd::kInts <= count; s += simd::kInts) {
        const auto lanes = simd::load_as<simd::Bits>(weights + s);
        simd::store_as(weights + s,
                       logit_weight(top, lanes, p.fraction_bits, simd::HighProduct<Isa>{}));
      }
      for (; s < count; ++s) {
        weights[s] = logit_weight(top, weights[s], p.fraction_bits);
      }
      uint32_t weight_sum = 0;
      for (int64_t i = 0; i < count; ++i) {
        weight_sum += weights[i];
      }
      int32_t* out = p.out + row * (entries + 1);
      uint32_t before = 0;
      for (int64_t e = 0; e < entries; ++e) {
        out[e] = start_slot(e, before, weight_sum, entries);
        for (int64_t i = e * span; i < (e + 1) * span; ++i) {
          before += weights[i];
        }
      }
      out[entries] = kTotal;
    }
  }
};

}  // namespace

void integer_frequencies_cpu(const Frequencies& problem, int64_t begin, int64_t end) {
  std::vector<uint32_t> weights(problem.symbols);
  simd::run<FrequencyRows>(&problem, weights.data(), begin, end);
}

}  // namespace genaccel::integer
