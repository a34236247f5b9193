// SPDX-License-Identifier: Apache-2.0
// Bridge: nearest unit-norm code word of each row, and the straight-through gradient. All arrays
// are dense.
#pragma once

#include <cstdint>

#include "common/status.h"
#include "common/stream.h"
#include "quantize/nearest_code_math.h"

namespace genaccel::quantize {

// Elements of the codebook's packed form, which the CPU search reads with full-width vector loads.
template <typename T>
int64_t packed_codes_size(int64_t num_codes, int64_t dim);

// Fills codes [num_codes, dim] with the normalised codebook, and packed with its vector form.
template <typename T>
void pack_codes_cpu(const T* codebook, T* codes, T* packed, int64_t num_codes, int64_t dim);

// Rows [begin, end): indices [rows] and quantized [rows, dim] = codes[indices].
template <typename T>
void nearest_code_cpu(const T* features, const T* codes, const T* packed, T* quantized,
                      int64_t* indices, int64_t begin, int64_t end, int64_t num_codes, int64_t dim);

// Rows [begin, end): grad_features = (I - y y^T) grad / |u| for y = u / |u|; zero rows get zero.
template <typename T>
void nearest_code_backward_cpu(const T* grad, const T* features, T* grad_features, int64_t begin,
                               int64_t end, int64_t dim);

// codes is workspace [num_codes, dim].
template <typename T>
Status nearest_code_cuda(const T* features, const T* codebook, T* codes, T* quantized,
                         int64_t* indices, int64_t rows, int64_t num_codes, int64_t dim,
                         Stream stream);

template <typename T>
Status nearest_code_backward_cuda(const T* grad, const T* features, T* grad_features, int64_t rows,
                                  int64_t dim, Stream stream);

}  // namespace genaccel::quantize
