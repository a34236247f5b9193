// SPDX-License-Identifier: Apache-2.0
// Softmax over code words (RDVQ, arXiv 2604.10546, equations 5 to 7): what a forward leaves of a
// row for a backward, and the scalar rules that both share.
//
// With the score <y, c> - |c|^2 / 2 the squared distance is |y|^2 - 2 score, and |y|^2 cancels:
// p = softmax(scale score), scale = 2 / temperature. Logits z enter as t = z - max z. Then the rate
// is log sum e^t - E_p[t] nats: two terms that are never negative.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/host_device.h"

namespace genaccel::quantize::soft_codes {

// A row of the statistics.
enum Statistic : int {
  kBestScore,     // max score
  kSoftSum,       // sum e^(scale (score - best))
  kLargestLogit,  // max z
  kLogitSum,      // sum e^t
  kMeanLogit,     // E_p[t]
  kStatistics
};

// Below every logit, and finite: zero times it is zero.
template <typename A>
GENACCEL_HOST_DEVICE constexpr A lowest() {
  return sizeof(A) == 4 ? static_cast<A>(-3.4028234663852886e38)
                        : static_cast<A>(-1.7976931348623157e308);
}

// 2 / temperature; the bound keeps 0 * scale = 0 where the temperature is next to nothing.
template <typename A>
GENACCEL_HOST_DEVICE A score_scale(double temperature) {
  const double bound = sizeof(A) == 4 ? 1e38 : 1e307;
  const double scale = 2 / temperature;
  return static_cast<A>(scale < bound ? scale : bound);
}

// Also the exponent of e^nats as a power of two.
template <typename V>
GENACCEL_HOST_DEVICE V bits_from_nats(V nats) {
  return nats * 1.44269504088896340736f;
}
template <>
GENACCEL_HOST_DEVICE double bits_from_nats(double nats) {
  return nats * 1.44269504088896340736;
}

// What turns the scores and logits of one row into p, q = softmax(z) and
// w = p (mean - t), with which the gradients of the row's rate, in nats, are
//   to y: scale sum_k w c      to c: scale w (y - c)      to z: q - p.
// sum_k w = 0 but for the rounding of the mean, which a small temperature would blow up. A backward
// knows this residue only after its walk: for y it takes the hard code word's share of it, residue
// p, from the sum; for c it walks with mean - residue. A one-hot p gives exactly zero either way.
// V: A, or a vector of it. Exp: e^x for x <= 0.
template <typename A>
struct RowGradient {
  A best, soft_factor, largest, logit_factor, mean, scale;

  GENACCEL_HOST_DEVICE RowGradient(const A* statistics, A score_scale)
      : best(statistics[kBestScore]),
        soft_factor(1 / statistics[kSoftSum]),
        largest(statistics[kLargestLogit]),
        logit_factor(1 / statistics[kLogitSum]),
        mean(statistics[kMeanLogit]),
        scale(score_scale) {}

  template <typename Exp, typename V>
  GENACCEL_HOST_DEVICE V p(V score) const {
    // A score that is computed again can round above the best, which a large scale would not
    // forgive.
    const V zero = {};
    const V behind = score - best;
    return Exp::of((behind > zero ? zero : behind) * scale) * soft_factor;
  }
  template <typename Exp, typename V>
  GENACCEL_HOST_DEVICE V q(V logit) const {
    return Exp::of(logit - largest) * logit_factor;
  }
  template <typename V>
  GENACCEL_HOST_DEVICE V w(V p, V logit) const {
    return p * (mean - (logit - largest));
  }
};

}  // namespace genaccel::quantize::soft_codes
