// SPDX-License-Identifier: Apache-2.0
// The only file that includes torch. Everything here exists in the stable ABI of torch 2.11.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>

#include "common/half.h"
#include "common/status.h"
#include "common/stream.h"

// Weak: a CPU torch does not have it, and never gets here.
extern "C" __attribute__((weak)) AOTITorchError
aoti_torch_get_current_cuda_stream(int32_t device_index, void** ret_stream);

namespace genaccel {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using torch::stable::accelerator::DeviceGuard;

template <typename T>
constexpr ScalarType kTypeOf = torch::headeronly::CppTypeToScalarType<T>::value;

// The stream that torch uses on the tensor's device now.
inline Stream current_stream(const Tensor& tensor) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return static_cast<Stream>(stream);
}

// Calls f(T{}) with the tensor's element type, float or double.
template <typename F>
void dispatch_float_or_double(const Tensor& tensor, const char* op, const F& f) {
  if (tensor.scalar_type() == ScalarType::Float) {
    f(float{});
  } else {
    STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Double, op,
                    ": elements must be float32 or float64");
    f(double{});
  }
}

// Calls f(T{}) with the tensor's element type: float, double, Half or BFloat16.
template <typename F>
void dispatch_floating(const Tensor& tensor, const char* op, const F& f) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return f(float{});
    case ScalarType::Double:
      return f(double{});
    case ScalarType::Half:
      return f(Half{});
    case ScalarType::BFloat16:
      return f(BFloat16{});
    default:
      STD_TORCH_CHECK(false, op, ": elements must be float16, bfloat16, float32 or float64");
  }
}

// The tensor's elements as this library's types, of the size that the caller has dispatched on.
// torch.frombuffer makes tensors that begin anywhere.
template <typename T>
const T* elements(const Tensor& tensor) {
  const void* data = tensor.const_data_ptr();
  STD_TORCH_CHECK(reinterpret_cast<uintptr_t>(data) % alignof(T) == 0,
                  "a tensor must be aligned to its elements of ", alignof(T),
                  " bytes: clone it first");
  return static_cast<const T*>(data);
}

// Of a tensor that this library has made.
template <typename T>
T* mutable_elements(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

}  // namespace genaccel
