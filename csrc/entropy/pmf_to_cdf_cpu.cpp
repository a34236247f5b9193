// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <numeric>
#include <vector>

#include "entropy/pmf_to_cdf.h"

namespace genaccel::entropy {

template <typename T>
void pmf_to_cdf_cpu(const T* pmf, int32_t* cdf, int64_t begin, int64_t end, int64_t symbols,
                    int precision) {
  const uint64_t free_slots = (uint64_t{1} << precision) - static_cast<uint64_t>(symbols);
  std::vector<uint64_t> values(symbols);  // weights, then remainders
  std::vector<int32_t> order(symbols);
  std::vector<T> p(symbols);  // a copy: the row is gone through twice, and must stay what it is
  for (int64_t row = begin; row < end; ++row) {
    std::copy_n(pmf + row * symbols, symbols, p.begin());
    int32_t* out = cdf + row * (symbols + 1);

    double largest = 0;
    for (int64_t s = 0; s < symbols; ++s) {
      largest = std::max(largest, sanitized(static_cast<double>(p[s])));
    }
    uint64_t weight_sum = 0;
    for (int64_t s = 0; s < symbols; ++s) {
      values[s] = fixed_point(static_cast<double>(p[s]), largest, precision);
      weight_sum += values[s];
    }
    uint64_t left_over = free_slots;
    for (int64_t s = 0; s < symbols; ++s) {
      const Share share = share_of(values[s], weight_sum, free_slots);
      values[s] = share.remainder;
      out[s + 1] = static_cast<int32_t>(1 + share.whole);
      left_over -= share.whole;
    }
    if (left_over > 0) {
      std::iota(order.begin(), order.end(), 0);
      std::nth_element(order.begin(), order.begin() + static_cast<int64_t>(left_over), order.end(),
                       [&values](int32_t a, int32_t b) {
                         return values[a] != values[b] ? values[a] > values[b] : a < b;
                       });
      for (uint64_t i = 0; i < left_over; ++i) {
        ++out[order[i] + 1];
      }
    }
    out[0] = 0;
    std::partial_sum(out + 1, out + symbols + 1, out + 1);
  }
}

template void pmf_to_cdf_cpu<float>(const float*, int32_t*, int64_t, int64_t, int64_t, int);
template void pmf_to_cdf_cpu<double>(const double*, int32_t*, int64_t, int64_t, int64_t, int);

}  // namespace genaccel::entropy
