// SPDX-License-Identifier: Apache-2.0
// Bridge: rows of probabilities [rows, symbols] to integer cumulative tables [rows, symbols + 1]
// that run from 0 to 2^precision. frequency = 1 + floor(p * (2^precision - symbols)); what is left
// over goes to the largest remainders, the lowest symbol first among equal ones.
#pragma once

#include <cstdint>

#include "common/status.h"
#include "common/stream.h"
#include "entropy/pmf_to_cdf_math.h"

namespace genaccel::entropy {

// Rows [begin, end).
template <typename T>
void pmf_to_cdf_cpu(const T* pmf, int32_t* cdf, int64_t begin, int64_t end, int64_t symbols,
                    int precision);

// remainders is workspace [rows, symbols].
template <typename T>
Status pmf_to_cdf_cuda(const T* pmf, int32_t* cdf, uint64_t* remainders, int64_t rows,
                       int64_t symbols, int precision, Stream stream);

}  // namespace genaccel::entropy
