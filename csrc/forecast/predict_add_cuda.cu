// SPDX-License-Identifier: Apache-2.0
// Pointers and weights travel as a kernel argument: nothing to allocate or to copy first, and a
// captured graph keeps them. A grid row is a tensor; a thread owns 16 bytes of it. Bytes: terms + 1
// (+ 1 with a base) times the tensor.
#include <cuda_runtime.h>

#include "common/integer.h"
#include "common/launch.cuh"
#include "common/pack.cuh"
#include "forecast/predict_add.h"

namespace genaccel::forecast {
namespace {

constexpr int kThreads = 256;
// 60 holds the 56 modules of DiT-XL/2; doubles leave less room.
template <typename T>
constexpr int kMaxTensors = sizeof(Accumulate<T>) == 8 ? 48 : 60;

template <typename T>
struct Table {
  struct Row {
    T* out;
    const T* base;
    int64_t size;
    Accumulate<T> offset;
    int16_t first_term;
    int16_t terms;
  };
  const T* history[kMaxTerms];
  Accumulate<T> coefficients[kMaxTerms];
  Row rows[kMaxTensors<T>];
};

template <typename T, int kWidth>
__device__ __forceinline__ void predict_pack(const Table<T>& table,
                                             const typename Table<T>::Row& row, int64_t p) {
  using A = Accumulate<T>;
  A sum[kWidth];
#pragma unroll
  for (int i = 0; i < kWidth; ++i) {
    sum[i] = row.offset;
  }
  if (row.base != nullptr) {
    const auto base = load_pack<kWidth>(row.base, p);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      sum[i] += base[i];
    }
  }
#pragma unroll 4  // loads in flight before the first use
  for (int term = 0; term < row.terms; ++term) {
    const auto value = load_pack<kWidth>(table.history[row.first_term + term], p);
    const A coefficient = table.coefficients[row.first_term + term];
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      sum[i] = with_term(sum[i], coefficient, value[i]);
    }
  }
  Pack<T, kWidth> result;
#pragma unroll
  for (int i = 0; i < kWidth; ++i) {
    result.set(i, sum[i]);
  }
  store_pack<kWidth>(row.out, p, result);
}

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    predict_add_kernel(const __grid_constant__ Table<T> table) {
  const auto& row = table.rows[blockIdx.y];
  const int64_t packs = row.size / kWidth;
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (thread < packs) {
    predict_pack<T, kWidth>(table, row, thread);
  }
  // What does not fill a pack, by the threads after those of the packs.
  const int64_t rest = packs * kWidth + (thread - packs);
  if (kWidth > 1 && thread >= packs && rest < row.size) {
    predict_pack<T, 1>(table, row, rest);
  }
}

template <typename T>
Status launch(const Table<T>& table, int tensors, int64_t largest, bool packed, Stream stream) {
  const int width = packed ? kPackWidth<T> : 1;
  // One thread for each pack of the largest tensor, and for each element that is left over.
  const int64_t threads = largest / width + width - 1;
  const auto kernel = packed ? predict_add_kernel<T, kPackWidth<T>> : predict_add_kernel<T, 1>;
  return start({ceil_div(threads > 0 ? threads : 1, kThreads), kThreads, stream, tensors}, kernel,
               table);
}

}  // namespace

template <typename T>
Status predict_add_cuda(const Prediction<T>* predictions, int64_t count, Stream stream) {
  static_assert(sizeof(Table<T>) <= 4096, "kernel arguments of every driver");
  Table<T> table;
  int tensors = 0;
  int terms = 0;
  int64_t largest = 0;
  bool packed = true;
  for (int64_t t = 0; t < count; ++t) {
    const Prediction<T>& prediction = predictions[t];
    if (prediction.size == 0) {
      continue;
    }
    if (tensors == kMaxTensors<T> || terms + prediction.terms > kMaxTerms) {
      if (const Status status = launch(table, tensors, largest, packed, stream)) {
        return status;
      }
      tensors = 0;
      terms = 0;
      largest = 0;
      packed = true;
    }
    table.rows[tensors++] = {prediction.out,
                             prediction.base,
                             prediction.size,
                             prediction.offset,
                             static_cast<int16_t>(terms),
                             static_cast<int16_t>(prediction.terms)};
    packed = packed && fits_packs<T>(0, prediction.out, prediction.base);
    for (int term = 0; term < prediction.terms; ++term) {
      packed = packed && fits_packs<T>(0, prediction.history[term]);
      table.history[terms] = prediction.history[term];
      table.coefficients[terms++] = prediction.coefficients[term];
    }
    largest = prediction.size > largest ? prediction.size : largest;
  }
  return tensors == 0 ? nullptr : launch(table, tensors, largest, packed, stream);
}

#define GENACCEL_INSTANTIATE(T) \
  template Status predict_add_cuda<T>(const Prediction<T>*, int64_t, Stream);
GENACCEL_INSTANTIATE(float)
GENACCEL_INSTANTIATE(double)
GENACCEL_INSTANTIATE(Half)
GENACCEL_INSTANTIATE(BFloat16)
#undef GENACCEL_INSTANTIATE

}  // namespace genaccel::forecast
