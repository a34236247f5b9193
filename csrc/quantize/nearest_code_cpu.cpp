// SPDX-License-Identifier: Apache-2.0
// Nearest code on the CPU: a register tile of 4 rows by 2 vectors of code words runs over the
// codebook and keeps the best score and index per lane, so no matrix of scores is ever stored.
#include <limits>
#include <type_traits>

#include "common/integer.h"
#include "quantize/nearest_code.h"

namespace genaccel::quantize {
namespace {

constexpr int kVectorBytes = 32;  // one AVX register; other targets split it
constexpr int kRows = 4;  // 4 x 2 accumulators leave half of AVX2's 16 registers for operands
constexpr int kVectors = 2;

template <typename T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));
template <typename T>
constexpr int kBlock = kVectors * kLanes<T>;  // code words per step

template <typename T>
using LaneIndex = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

template <typename T>
void normalize_row(const T* row, T* out, int64_t dim) {
  T squared_norm = 0;
  for (int64_t c = 0; c < dim; ++c) {
    squared_norm += row[c] * row[c];
  }
  const T scale = inverse_norm(squared_norm);
  for (int64_t c = 0; c < dim; ++c) {
    out[c] = row[c] * scale;
  }
}

// Best code of `count` <= kRows unit rows. Forced inline, so that it is compiled once per
// instruction set.
template <typename T>
__attribute__((always_inline)) inline void search_rows(const T* rows, int count, const T* packed,
                                                       int64_t* indices, int64_t num_codes,
                                                       int64_t dim) {
  typedef T Vector __attribute__((vector_size(kVectorBytes)));
  typedef LaneIndex<T> Index __attribute__((vector_size(kVectorBytes)));
  constexpr int lanes = kLanes<T>;

  Vector best[kRows][kVectors];
  Index best_index[kRows][kVectors];
  Index lane_index[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    for (int lane = 0; lane < lanes; ++lane) {
      lane_index[v][lane] = v * lanes + lane;
    }
    for (int r = 0; r < kRows; ++r) {
      best[r][v] = Vector{} - std::numeric_limits<T>::infinity();
      best_index[r][v] = lane_index[v];
    }
  }
  const T* row[kRows];
  for (int r = 0; r < kRows; ++r) {
    row[r] = rows + (r < count ? r : 0) * dim;  // a short tile repeats its first row
  }

  const int64_t blocks = ceil_div(num_codes, kBlock<T>);
  for (int64_t block = 0; block < blocks; ++block) {
    const T* codes = packed + block * dim * kBlock<T>;
    Vector score[kRows][kVectors] = {};
    for (int64_t c = 0; c < dim; ++c) {
      Vector code[kVectors];
      for (int v = 0; v < kVectors; ++v) {
        __builtin_memcpy(&code[v], codes + (c * kVectors + v) * lanes, sizeof(Vector));
      }
      for (int r = 0; r < kRows; ++r) {
        for (int v = 0; v < kVectors; ++v) {
          score[r][v] += row[r][c] * code[v];
        }
      }
    }
    for (int v = 0; v < kVectors; ++v) {
      for (int r = 0; r < kRows; ++r) {
        const auto better = score[r][v] > best[r][v];  // strict: the lower index keeps a tie
        best[r][v] = better ? score[r][v] : best[r][v];
        best_index[r][v] = better ? lane_index[v] : best_index[r][v];
      }
      lane_index[v] += static_cast<LaneIndex<T>>(kBlock<T>);
    }
  }

  for (int r = 0; r < count; ++r) {
    T score = best[r][0][0];
    int64_t index = best_index[r][0][0];
    for (int v = 0; v < kVectors; ++v) {
      for (int lane = 0; lane < lanes; ++lane) {
        const int64_t candidate = best_index[r][v][lane];
        if (is_better<T, int64_t>(best[r][v][lane], candidate, score, index)) {
          score = best[r][v][lane];
          index = candidate;
        }
      }
    }
    indices[r] = index;
  }
}

template <typename T>
using Search = void (*)(const T*, int, const T*, int64_t*, int64_t, int64_t);

template <typename T>
void search_rows_portable(const T* rows, int count, const T* packed, int64_t* indices,
                          int64_t num_codes, int64_t dim) {
  search_rows(rows, count, packed, indices, num_codes, dim);
}

#if defined(__x86_64__)
template <typename T>
__attribute__((target("avx2,fma"))) void search_rows_avx2(const T* rows, int count, const T* packed,
                                                          int64_t* indices, int64_t num_codes,
                                                          int64_t dim) {
  search_rows(rows, count, packed, indices, num_codes, dim);
}
#endif

template <typename T>
Search<T> choose_search() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    return search_rows_avx2<T>;
  }
#endif
  return search_rows_portable<T>;
}

}  // namespace

template <typename T>
int64_t packed_codes_size(int64_t num_codes, int64_t dim) {
  return ceil_div(num_codes, kBlock<T>) * kBlock<T> * dim;
}

template <typename T>
void pack_codes_cpu(const T* codebook, T* codes, T* packed, int64_t num_codes, int64_t dim) {
  for (int64_t k = 0; k < num_codes; ++k) {
    normalize_row(codebook + k * dim, codes + k * dim, dim);
  }
  const int64_t padded = ceil_div(num_codes, kBlock<T>) * kBlock<T>;
  for (int64_t k = 0; k < padded; ++k) {
    // Padding repeats the last code word: a tie with it is lost, for its index is higher.
    const T* code = codes + (k < num_codes ? k : num_codes - 1) * dim;
    T* block = packed + k / kBlock<T> * kBlock<T> * dim;
    for (int64_t c = 0; c < dim; ++c) {
      block[c * kBlock<T> + k % kBlock<T>] = code[c];
    }
  }
}

template <typename T>
void nearest_code_cpu(const T* features, const T* codes, const T* packed, T* quantized,
                      int64_t* indices, int64_t begin, int64_t end, int64_t num_codes,
                      int64_t dim) {
  static const Search<T> search = choose_search<T>();
  for (int64_t i = begin; i < end; i += kRows) {
    const int count = static_cast<int>(end - i < kRows ? end - i : kRows);
    T* out = quantized + i * dim;  // holds the unit rows until they are replaced by their codes
    for (int r = 0; r < count; ++r) {
      normalize_row(features + (i + r) * dim, out + r * dim, dim);
    }
    search(out, count, packed, indices + i, num_codes, dim);
    for (int r = 0; r < count; ++r) {
      const T* code = codes + indices[i + r] * dim;
      for (int64_t c = 0; c < dim; ++c) {
        out[r * dim + c] = code[c];
      }
    }
  }
}

template <typename T>
void nearest_code_backward_cpu(const T* grad, const T* features, T* grad_features, int64_t begin,
                               int64_t end, int64_t dim) {
  for (int64_t i = begin; i < end; ++i) {
    const T* u = features + i * dim;
    const T* g = grad + i * dim;
    T* out = grad_features + i * dim;
    T squared_norm = 0;
    T dot = 0;
    for (int64_t c = 0; c < dim; ++c) {
      squared_norm += u[c] * u[c];
      dot += u[c] * g[c];
    }
    const T scale = squared_norm > 0 ? inverse_norm(squared_norm) : T(0);
    const T along = dot * scale * scale;
    for (int64_t c = 0; c < dim; ++c) {
      out[c] = (g[c] - along * u[c]) * scale;
    }
  }
}

#define GENACCEL_INSTANTIATE(T)                                                                   \
  template int64_t packed_codes_size<T>(int64_t, int64_t);                                        \
  template void pack_codes_cpu<T>(const T*, T*, T*, int64_t, int64_t);                            \
  template void nearest_code_cpu<T>(const T*, const T*, const T*, T*, int64_t*, int64_t, int64_t, \
                                    int64_t, int64_t);                                            \
  template void nearest_code_backward_cpu<T>(const T*, const T*, T*, int64_t, int64_t, int64_t);
GENACCEL_INSTANTIATE(float)
GENACCEL_INSTANTIATE(double)
#undef GENACCEL_INSTANTIATE

}  // namespace genaccel::quantize
