// SPDX-License-Identifier: Apache-2.0
// Weights of logits to a cumulative table of 2^16. Shares are rounded cumulatively: with C(e) the
// weights before entry e of E, W the weights of all and F = 2^16 - E,
//
//   start(e) = e + floor(C(e) F / W)
//
// so each entry has at least one slot, none is left over, and a start needs no other entry's.
#pragma once

#include <cstdint>

#include "integer/fixed_point_shared.h"

namespace genaccel::integer {

constexpr uint32_t kTotal = 65536;
constexpr int64_t kMaxSymbols = 32768;  // weights of 2^16 then sum to less than 2^32
constexpr int kMaxFractionBits = 16;

// Differences of int32 as uint32: exact, whatever the signs. Also for vectors.
template <typename U, typename Product = fixed_point::HighProduct>
GENACCEL_HOST_DEVICE U logit_weight(uint32_t largest, U logit, int fraction_bits,
                                    Product product = {}) {
  return fixed_point::weight_below(largest - logit, fraction_bits, product);
}

GENACCEL_HOST_DEVICE int32_t start_slot(int64_t entry, uint32_t weight_before, uint32_t weight_sum,
                                        int64_t entries) {
  const uint64_t share =
      uint64_t{weight_before} * (kTotal - static_cast<uint32_t>(entries)) / weight_sum;
  return static_cast<int32_t>(entry + static_cast<int64_t>(share));
}

}  // namespace genaccel::integer
