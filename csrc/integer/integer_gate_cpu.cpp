// SPDX-License-Identifier: Apache-2.0
// Look-ups and products in loops of their own: the second one becomes vectors.
#include <vector>

#include "common/simd.h"
#include "integer/integer_gate.h"

namespace genaccel::integer {
namespace {

struct GateRows {
  template <typename Isa>
  GENACCEL_HOST_DEVICE static void run(const Gate* problem, int16_t* activations, int64_t begin,
                                       int64_t end) {
    const Gate p = *problem;
    const int16_t* table = p.table + kTableSize / 2;
    for (int64_t row = begin; row < end; ++row) {
      const int8_t* gates = p.x + row * 2 * p.channels;
      const int8_t* values = gates + p.channels;
      int8_t* out = p.out + row * p.channels;
      for (int64_t c = 0; c < p.channels; ++c) {
        activations[c] = table[gates[c]];
      }
      for (int64_t c = 0; c < p.channels; ++c) {
        out[c] = gated(activations[c], values[c], p.shift);
      }
    }
  }
};

}  // namespace

void integer_gate_cpu(const Gate& problem, int64_t begin, int64_t end) {
  std::vector<int16_t> activations(problem.channels);
  simd::run<GateRows>(&problem, activations.data(), begin, end);
}

}  // namespace genaccel::integer
