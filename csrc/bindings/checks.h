// SPDX-License-Identifier: Apache-2.0
// What would corrupt memory if it did not hold. The Python wrappers have checked the rest, with
// better words.
#pragma once

#include "bindings/torch_compat.h"

namespace genaccel {

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

inline void check_same_kind(const Tensor& a, const Tensor& b, const char* op, const char* name) {
  STD_TORCH_CHECK(a.scalar_type() == b.scalar_type() && a.is_cuda() == b.is_cuda() &&
                      a.get_device_index() == b.get_device_index(),
                  op, ": ", name, " must have the dtype and device of the other argument");
}

}  // namespace genaccel
