// SPDX-License-Identifier: Apache-2.0
// Bridge: rate of soft code assignments under predicted logits. All arrays are dense. T is float or
// double; the logits Z are double for double, and float, Half or BFloat16 for float. One walk over
// the code words; nothing of size rows x num_codes is stored.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/host_device.h"
#include "common/status.h"
#include "common/stream.h"
#include "quantize/soft_codes_shared.h"

namespace genaccel::quantize {

template <typename A>
GENACCEL_HOST_DEVICE A rate_in_bits(A logit_sum, A mean_logit) {
  using std::log;
  return soft_codes::bits_from_nats(log(logit_sum) - mean_logit);
}

template <typename T, typename Z>
struct SoftCrossEntropy {
  const T* features;  // [rows, dim]
  const T* codebook;  // [num_codes, dim]
  const Z* logits;    // [rows, num_codes]
  int64_t rows, num_codes, dim;
  double temperature;
  T* rate;           // [rows], in bits
  int64_t* indices;  // [rows], of the nearest code words
  T* statistics;     // [rows, soft_codes::kStatistics]
};

// Elements of the codebook's packed form, which the CPU code reads with full-width vector loads.
template <typename T>
int64_t packed_soft_codes_size(int64_t num_codes, int64_t dim);

template <typename T>
void pack_soft_codes_cpu(const T* codebook, T* packed, int64_t num_codes, int64_t dim);

// Rows [begin, end).
template <typename T, typename Z>
void soft_cross_entropy_cpu(const SoftCrossEntropy<T, Z>& problem, const T* packed, int64_t begin,
                            int64_t end);

template <typename T>
int64_t soft_cross_entropy_workspace_bytes(int64_t rows, int64_t num_codes, int64_t dim);

template <typename T, typename Z>
Status soft_cross_entropy_cuda(const SoftCrossEntropy<T, Z>& problem, void* workspace,
                               Stream stream);

}  // namespace genaccel::quantize
