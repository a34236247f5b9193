// SPDX-License-Identifier: Apache-2.0
// Gradients of the soft cross-entropy on the CPU: the walk of the forward again. Where the scores
// of a tile were come its w, which multiply the code words, or the rows for the codebook's
// gradient.
#include <vector>

#include "common/half.h"
#include "common/integer.h"
#include "common/read_once.h"
#include "common/simd.h"
#include "quantize/code_tiles_shared.h"
#include "quantize/soft_codes_shared.h"
#include "quantize/soft_cross_entropy_backward.h"

namespace genaccel::quantize {
namespace {

using code_tiles::Codes;
using code_tiles::kBlock;
using code_tiles::kPanel;
using code_tiles::kRows;
using code_tiles::kTile;
using code_tiles::kVectors;
using code_tiles::Scores;
using soft_codes::bits_from_nats;
using soft_codes::RowGradient;

template <typename T>
struct Exp {
  GENACCEL_HOST_DEVICE static simd::Vector<T> of(simd::Vector<T> x) {
    return simd::exp_of_nonpositive<T>(x);
  }
};

// Replaces the `size` scores of a row, of which `count` exist, by its w, whose sum it returns, and
// writes the gradient of its logits, if that is wanted.
template <typename Isa, typename T, typename Z>
GENACCEL_HOST_DEVICE T weigh(const RowGradient<T>& row, T grad, T* score, const Z* logits,
                             Z* grad_logits, int size, int64_t count) {
  using V = simd::Vector<T>;
  constexpr int lanes = simd::kLanes<T>;
  const T grad_bits = bits_from_nats(grad);
  V sum = {};
  for (int k = 0; k < size; k += lanes) {
    const V z = simd::load_filled<Isa>(logits + k, count - k, soft_codes::lowest<T>());
    const V p = row.template p<Exp<T>>(simd::load<Isa>(score + k));
    const V w = row.w(p, z);
    sum += w;
    simd::store<Isa>(score + k, w);
    if (grad_logits != nullptr) {
      const V difference = (row.template q<Exp<T>>(z) - p) * grad_bits;
      if (count - k >= lanes) {
        simd::store<Isa>(grad_logits + k, difference);
      } else {
        simd::store_part<Isa>(grad_logits + k, difference, count - k);
      }
    }
  }
  return simd::sum_of_lanes<T>(sum);
}

// sums [kRows, padded_dim] += w [kRows, size] times code words [first, first + size).
template <typename Isa, typename T>
GENACCEL_HOST_DEVICE void add_weighted_codes(const Scores<T>& w, const Codes<T>& codes,
                                             int64_t first, int size, T* sums) {
  using V = simd::Vector<T>;
  constexpr int lanes = simd::kLanes<T>;
  for (int64_t c = 0; c < codes.padded_dim; c += kBlock<T>) {
    V sum[kRows][kVectors];
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVectors; ++v) {
        sum[r][v] = simd::load<Isa>(sums + r * codes.padded_dim + c + v * lanes);
      }
    }
    const T* code = codes.rows + first * codes.padded_dim + c;
    for (int k = 0; k < size; ++k, code += codes.padded_dim) {
      V value[kVectors];
      for (int v = 0; v < kVectors; ++v) {
        value[v] = simd::load<Isa>(code + v * lanes);
      }
      for (int r = 0; r < kRows; ++r) {
        for (int v = 0; v < kVectors; ++v) {
          sum[r][v] += w.of[r][k] * value[v];
        }
      }
    }
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVectors; ++v) {
        simd::store<Isa>(sums + r * codes.padded_dim + c + v * lanes, sum[r][v]);
      }
    }
  }
}

template <typename T, typename Z>
struct BackwardRows {
  template <typename Isa>
  GENACCEL_HOST_DEVICE static void run(const SoftCrossEntropyBackward<T, Z>* problem,
                                       const T* packed, T* residue, int64_t begin, int64_t end) {
    const int64_t dim = problem->dim;
    const Codes<T> codes(packed, problem->num_codes, dim);
    const T scale = soft_codes::score_scale<T>(problem->temperature);
    const bool with_features = problem->grad_features != nullptr;
    std::vector<T> sums(with_features ? kPanel * codes.padded_dim : 0);
    Scores<T> scores;
    for (int64_t panel = begin; panel < end; panel += kPanel) {
      const int rows = static_cast<int>(end - panel < kPanel ? end - panel : kPanel);
      sums.assign(sums.size(), 0);
      for (int i = 0; i < rows; ++i) {
        residue[panel + i] = 0;
      }
      for (int64_t first = 0; first < codes.padded; first += kTile<T>) {
        const int size = codes.tile_size(first);
        for (int i = 0; i < rows; i += kRows) {
          const int count = rows - i < kRows ? rows - i : kRows;
          code_tiles::score<Isa>(problem->features + (panel + i) * dim, count, codes, first,
                                 scores);
          for (int r = 0; r < count; ++r) {
            const int64_t n = panel + i + r;
            const int64_t at = n * problem->num_codes + first;
            const RowGradient<T> row(problem->statistics + n * soft_codes::kStatistics, scale);
            residue[n] +=
                weigh<Isa>(row, problem->grad[n], scores.of[r], problem->logits + at,
                           problem->grad_logits == nullptr ? nullptr : problem->grad_logits + at,
                           size, problem->num_codes - first);
          }
          if (with_features) {
            // The w of rows past a short group are scores; nobody reads their sums.
            add_weighted_codes<Isa>(scores, codes, first, size, sums.data() + i * codes.padded_dim);
          }
        }
      }
      for (int i = 0; i < (with_features ? rows : 0); ++i) {
        const int64_t n = panel + i;
        const int64_t index = existing_index(read_once(problem->indices + n), problem->num_codes);
        const T* hard_code = problem->codebook + index * dim;
        const T share =
            residue[n] / problem->statistics[n * soft_codes::kStatistics + soft_codes::kSoftSum];
        for (int64_t c = 0; c < dim; ++c) {
          const T centred = sums[i * codes.padded_dim + c] - share * hard_code[c];
          // In this order: zero times a large scale first.
          problem->grad_features[n * dim + c] = centred * scale * bits_from_nats(problem->grad[n]);
        }
      }
    }
  }
};

// sums [size, padded_dim] += w [kRows, size] transposed times rows [kRows, padded_dim].
template <typename Isa, typename T>
GENACCEL_HOST_DEVICE void add_weighted_rows(const Scores<T>& w, const T* rows, int size,
                                            int64_t padded_dim, T* sums) {
  using V = simd::Vector<T>;
  constexpr int lanes = simd::kLanes<T>;
  for (int64_t c = 0; c < padded_dim; c += kBlock<T>) {
    V row[kRows][kVectors];
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVectors; ++v) {
        row[r][v] = simd::load<Isa>(rows + r * padded_dim + c + v * lanes);
      }
    }
    for (int k = 0; k < size; ++k) {
      for (int v = 0; v < kVectors; ++v) {
        T* at = sums + k * padded_dim + c + v * lanes;
        V sum = simd::load<Isa>(at);
        for (int r = 0; r < kRows; ++r) {
          sum += w.of[r][k] * row[r][v];
        }
        simd::store<Isa>(at, sum);
      }
    }
  }
}

template <typename T, typename Z>
struct BackwardCodes {
  template <typename Isa>
  GENACCEL_HOST_DEVICE static void run(const SoftCrossEntropyBackward<T, Z>* problem,
                                       const T* packed, const T* residue, int64_t begin,
                                       int64_t end) {
    const int64_t dim = problem->dim;
    const Codes<T> codes(packed, problem->num_codes, dim);
    const T scale = soft_codes::score_scale<T>(problem->temperature);
    std::vector<T> sums(kTile<T> * codes.padded_dim);
    std::vector<T> rows(kRows * codes.padded_dim);
    std::vector<T> totals(kTile<T>);  // sum of w over the rows
    Scores<T> scores;
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t first = tile * kTile<T>;
      const int size = codes.tile_size(first);
      sums.assign(sums.size(), 0);
      totals.assign(totals.size(), 0);
      for (int64_t n = 0; n < problem->rows; n += kRows) {
        const int count = static_cast<int>(problem->rows - n < kRows ? problem->rows - n : kRows);
        code_tiles::score<Isa>(problem->features + n * dim, count, codes, first, scores);
        for (int r = 0; r < kRows; ++r) {
          T* w = scores.of[r];
          if (r >= count) {
            for (int k = 0; k < size; ++k) {
              w[k] = 0;
            }
            continue;
          }
          const T* statistics = problem->statistics + (n + r) * soft_codes::kStatistics;
          RowGradient<T> row(statistics, scale);
          row.mean -= residue[n + r];
          weigh<Isa>(row, T(0), w, problem->logits + (n + r) * problem->num_codes + first,
                     static_cast<Z*>(nullptr), size, problem->num_codes - first);
          for (int k = 0; k < size; ++k) {
            w[k] *= problem->grad[n + r];
            totals[k] += w[k];
          }
          for (int64_t c = 0; c < dim; ++c) {
            rows[r * codes.padded_dim + c] = problem->features[(n + r) * dim + c];
          }
        }
        add_weighted_rows<Isa>(scores, rows.data(), size, codes.padded_dim, sums.data());
      }
      for (int64_t k = 0; k < size && first + k < problem->num_codes; ++k) {
        for (int64_t c = 0; c < dim; ++c) {
          const int64_t at = (first + k) * dim + c;
          const T centred = sums[k * codes.padded_dim + c] - totals[k] * problem->codebook[at];
          problem->grad_codebook[at] = bits_from_nats(centred * scale);
        }
      }
    }
  }
};

}  // namespace

template <typename T, typename Z>
void soft_cross_entropy_backward_cpu(const SoftCrossEntropyBackward<T, Z>& problem, const T* packed,
                                     T* residue, int64_t begin, int64_t end) {
  simd::run<BackwardRows<T, Z>>(&problem, packed, residue, begin, end);
}

template <typename T>
int64_t soft_code_tiles(int64_t num_codes) {
  return code_tiles::tiles<T>(num_codes);
}

template <typename T, typename Z>
void soft_codebook_backward_cpu(const SoftCrossEntropyBackward<T, Z>& problem, const T* packed,
                                const T* residue, int64_t begin, int64_t end) {
  simd::run<BackwardCodes<T, Z>>(&problem, packed, residue, begin, end);
}

template int64_t soft_code_tiles<float>(int64_t);
template int64_t soft_code_tiles<double>(int64_t);

#define GENACCEL_INSTANTIATE(T, Z)                                                                \
  template void soft_cross_entropy_backward_cpu<T, Z>(const SoftCrossEntropyBackward<T, Z>&,      \
                                                      const T*, T*, int64_t, int64_t);            \
  template void soft_codebook_backward_cpu<T, Z>(const SoftCrossEntropyBackward<T, Z>&, const T*, \
                                                 const T*, int64_t, int64_t);
GENACCEL_INSTANTIATE(float, float)
GENACCEL_INSTANTIATE(float, Half)
GENACCEL_INSTANTIATE(float, BFloat16)
GENACCEL_INSTANTIATE(double, double)
#undef GENACCEL_INSTANTIATE

}  // namespace genaccel::quantize
