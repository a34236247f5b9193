// SPDX-License-Identifier: Apache-2.0
// What would corrupt memory if it did not hold. The Python wrappers have checked the rest, with
// better words.
#pragma once

#include <initializer_list>

#include "bindings/torch_compat.h"

namespace genaccel {

constexpr int64_t kAnySize = -1;

inline void check_contiguous(const Tensor& tensor, const char* op, const char* name) {
  STD_TORCH_CHECK(tensor.is_contiguous(), op, ": ", name, " must be contiguous");
}

inline void check_dim(const Tensor& tensor, int64_t dim, const char* op, const char* name) {
  STD_TORCH_CHECK(tensor.dim() == dim, op, ": ", name, " must have ", dim, " dimensions, got ",
                  tensor.dim());
}

inline void check_size(const Tensor& tensor, int64_t axis, int64_t size, const char* op,
                       const char* name) {
  STD_TORCH_CHECK(tensor.size(axis) == size, op, ": ", name, " must have size ", size, " in axis ",
                  axis, ", got ", tensor.size(axis));
}

// Contiguous, and of these sizes, some of which may be kAnySize.
inline void check_shape(const Tensor& tensor, std::initializer_list<int64_t> sizes, const char* op,
                        const char* name) {
  check_dim(tensor, static_cast<int64_t>(sizes.size()), op, name);
  check_contiguous(tensor, op, name);
  int64_t axis = 0;
  for (const int64_t size : sizes) {
    if (size != kAnySize) {
      check_size(tensor, axis, size, op, name);
    }
    ++axis;
  }
}

inline void check_place(const Tensor& tensor, const Tensor& other, const char* op,
                        const char* name) {
  STD_TORCH_CHECK(
      tensor.is_cuda() == other.is_cuda() && tensor.get_device_index() == other.get_device_index(),
      op, ": ", name, " must be on the device of the first argument");
}

// Elements of a tensor of this dtype, contiguous, of these sizes, and on the device of `first`.
template <typename T>
const T* checked(const Tensor& tensor, std::initializer_list<int64_t> sizes, const Tensor& first,
                 const char* op, const char* name) {
  check_shape(tensor, sizes, op, name);
  check_place(tensor, first, op, name);
  STD_TORCH_CHECK(tensor.scalar_type() == kTypeOf<T>, op, ": ", name, " must be ",
                  torch::headeronly::toString(kTypeOf<T>), ", got ",
                  torch::headeronly::toString(tensor.scalar_type()));
  return elements<T>(tensor);
}

inline void check_same_kind(const Tensor& a, const Tensor& b, const char* op, const char* name) {
  STD_TORCH_CHECK(a.scalar_type() == b.scalar_type() && a.is_cuda() == b.is_cuda() &&
                      a.get_device_index() == b.get_device_index(),
                  op, ": ", name, " must have the dtype and device of the other argument");
}

// Contiguous, and of the shape, dtype and device of another.
inline void check_like(const Tensor& tensor, const Tensor& other, const char* op,
                       const char* name) {
  check_dim(tensor, other.dim(), op, name);
  check_contiguous(tensor, op, name);
  for (int64_t axis = 0; axis < other.dim(); ++axis) {
    check_size(tensor, axis, other.size(axis), op, name);
  }
  check_same_kind(other, tensor, op, name);
}

inline void check_range(int64_t value, int64_t lowest, int64_t highest, const char* op,
                        const char* name) {
  STD_TORCH_CHECK(value >= lowest && value <= highest, op, ": ", name, " must be in [", lowest,
                  ", ", highest, "], got ", value);
}

}  // namespace genaccel
