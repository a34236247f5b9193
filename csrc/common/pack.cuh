// SPDX-License-Identifier: Apache-2.0
// Loads and stores of 16 bytes, the widest that a thread has; for .cu files only.
#pragma once

#include <cuda_runtime.h>

#include "common/half.h"

namespace genaccel {

template <typename T>
constexpr int kPackWidth = 16 / static_cast<int>(sizeof(T));

template <typename T, int kWidth>
struct alignas(sizeof(T) * kWidth) Pack {
  T value[kWidth];

  __device__ __forceinline__ Accumulate<T> operator[](int i) const { return to_float(value[i]); }
  __device__ __forceinline__ void set(int i, Accumulate<T> x) { value[i] = from_float<T>(x); }
};

// The index-th pack of an array that is aligned to packs.
template <int kWidth, typename T>
__device__ __forceinline__ Pack<T, kWidth> load_pack(const T* __restrict__ from, int64_t index) {
  return reinterpret_cast<const Pack<T, kWidth>*>(from)[index];
}

template <int kWidth, typename T>
__device__ __forceinline__ void store_pack(T* __restrict__ to, int64_t index,
                                           const Pack<T, kWidth>& pack) {
  reinterpret_cast<Pack<T, kWidth>*>(to)[index] = pack;
}

// Whether arrays whose rows have this many elements may be read in packs of 16 bytes: torch aligns
// what it allocates, but a view can start anywhere, and a row can have any length.
template <typename T, typename... Pointers>
bool fits_packs(int64_t row_length, const Pointers*... pointers) {
  return row_length % kPackWidth<T> == 0 &&
         ((reinterpret_cast<uintptr_t>(pointers) % 16 == 0) && ...);
}

}  // namespace genaccel
