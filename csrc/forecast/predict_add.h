// SPDX-License-Identifier: Apache-2.0
// Bridge: out = base + offset + sum_i coefficients[i] * history[i], for many tensors at once. Each
// element is read once, summed in float (double for double) in the order written, and rounded once.
#pragma once

#include <cstdint>

#include "common/half.h"
#include "common/host_device.h"
#include "common/status.h"
#include "common/stream.h"

namespace genaccel::forecast {

// One term of the weighted sum; V is A, or a vector of A.
template <typename V, typename A>
GENACCEL_HOST_DEVICE V with_term(V sum, A coefficient, V value) {
  return sum + coefficient * value;
}

// Terms of one tensor: what fits into a kernel's arguments. FLUX has 114 modules to sum over.
constexpr int kMaxTerms = 128;

template <typename T>
struct Prediction {
  T* out;         // [size]
  const T* base;  // [size], or nullptr for zeros
  int64_t size;
  Accumulate<T> offset;
  const T* const* history;  // [terms] pointers to [size]
  const Accumulate<T>* coefficients;
  int terms;  // at most kMaxTerms
};

// Elements [begin, end) of one tensor.
template <typename T>
void predict_add_cpu(const Prediction<T>& prediction, int64_t begin, int64_t end);

// All tensors in as few launches as their pointers fit in.
template <typename T>
Status predict_add_cuda(const Prediction<T>* predictions, int64_t count, Stream stream);

}  // namespace genaccel::forecast
