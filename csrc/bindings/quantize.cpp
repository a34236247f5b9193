// SPDX-License-Identifier: Apache-2.0
#include <tuple>

#include "bindings/checks.h"
#include "bindings/torch_compat.h"
#include "quantize/nearest_code.h"

namespace genaccel {
namespace {

constexpr int64_t kRowsPerTask = 64;  // a task is at least some 10 microseconds of search

void check_nearest_code(const Tensor& features, const Tensor& codebook) {
  const char* op = "nearest_code";
  check_dim(features, 2, op, "features");
  check_dim(codebook, 2, op, "codebook");
  check_contiguous(features, op, "features");
  check_contiguous(codebook, op, "codebook");
  check_size(codebook, 1, features.size(1), op, "codebook");
  check_same_kind(features, codebook, op, "codebook");
  STD_TORCH_CHECK(codebook.size(0) > 0 && codebook.size(0) <= INT32_MAX, op,
                  ": codebook must have 1 to 2^31 - 1 rows, got ", codebook.size(0));
}

Tensor new_indices(const Tensor& features) {
  return torch::stable::new_empty(features, {features.size(0)}, ScalarType::Long);
}

std::tuple<Tensor, Tensor> nearest_code_on_cpu(const Tensor& features, const Tensor& codebook) {
  check_nearest_code(features, codebook);
  const int64_t rows = features.size(0);
  const int64_t num_codes = codebook.size(0);
  const int64_t dim = features.size(1);
  Tensor quantized = torch::stable::empty_like(features);
  Tensor indices = new_indices(features);
  Tensor codes = torch::stable::empty_like(codebook);
  dispatch_float_or_double(features, "nearest_code", [&](auto zero) {
    using T = decltype(zero);
    Tensor packed =
        torch::stable::new_empty(codebook, {quantize::packed_codes_size<T>(num_codes, dim)});
    quantize::pack_codes_cpu<T>(codebook.const_data_ptr<T>(), codes.mutable_data_ptr<T>(),
                                packed.mutable_data_ptr<T>(), num_codes, dim);
    const T* in = features.const_data_ptr<T>();
    const T* code = codes.const_data_ptr<T>();
    const T* pack = packed.const_data_ptr<T>();
    T* out = quantized.mutable_data_ptr<T>();
    int64_t* index = indices.mutable_data_ptr<int64_t>();
    torch::stable::parallel_for(0, rows, kRowsPerTask, [=](int64_t begin, int64_t end) {
      quantize::nearest_code_cpu<T>(in, code, pack, out, index, begin, end, num_codes, dim);
    });
  });
  return {quantized, indices};
}

void check_backward(const Tensor& grad, const Tensor& features) {
  const char* op = "nearest_code_backward";
  check_dim(grad, 2, op, "grad");
  check_dim(features, 2, op, "features");
  check_contiguous(grad, op, "grad");
  check_contiguous(features, op, "features");
  check_size(grad, 0, features.size(0), op, "grad");
  check_size(grad, 1, features.size(1), op, "grad");
  check_same_kind(features, grad, op, "grad");
}

Tensor nearest_code_backward_on_cpu(const Tensor& grad, const Tensor& features) {
  check_backward(grad, features);
  Tensor out = torch::stable::empty_like(features);
  dispatch_float_or_double(features, "nearest_code_backward", [&](auto zero) {
    using T = decltype(zero);
    const T* g = grad.const_data_ptr<T>();
    const T* u = features.const_data_ptr<T>();
    T* result = out.mutable_data_ptr<T>();
    const int64_t dim = features.size(1);
    torch::stable::parallel_for(0, features.size(0), 1024, [=](int64_t begin, int64_t end) {
      quantize::nearest_code_backward_cpu<T>(g, u, result, begin, end, dim);
    });
  });
  return out;
}

#if defined(GENACCEL_WITH_CUDA)
std::tuple<Tensor, Tensor> nearest_code_on_cuda(const Tensor& features, const Tensor& codebook) {
  check_nearest_code(features, codebook);
  const DeviceGuard guard(features.get_device_index());
  Tensor quantized = torch::stable::empty_like(features);
  Tensor indices = new_indices(features);
  Tensor codes = torch::stable::empty_like(codebook);
  dispatch_float_or_double(features, "nearest_code", [&](auto zero) {
    using T = decltype(zero);
    raise_if(
        quantize::nearest_code_cuda<T>(
            features.const_data_ptr<T>(), codebook.const_data_ptr<T>(), codes.mutable_data_ptr<T>(),
            quantized.mutable_data_ptr<T>(), indices.mutable_data_ptr<int64_t>(), features.size(0),
            codebook.size(0), features.size(1), current_stream(features)),
        "nearest_code");
  });
  return {quantized, indices};
}

Tensor nearest_code_backward_on_cuda(const Tensor& grad, const Tensor& features) {
  check_backward(grad, features);
  const DeviceGuard guard(features.get_device_index());
  Tensor out = torch::stable::empty_like(features);
  dispatch_float_or_double(features, "nearest_code_backward", [&](auto zero) {
    using T = decltype(zero);
    raise_if(quantize::nearest_code_backward_cuda<T>(
                 grad.const_data_ptr<T>(), features.const_data_ptr<T>(), out.mutable_data_ptr<T>(),
                 features.size(0), features.size(1), current_stream(features)),
             "nearest_code_backward");
  });
  return out;
}
#endif

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(genaccel, CPU, m) {
  m.impl("nearest_code", TORCH_BOX(&nearest_code_on_cpu));
  m.impl("nearest_code_backward", TORCH_BOX(&nearest_code_backward_on_cpu));
}

#if defined(GENACCEL_WITH_CUDA)
STABLE_TORCH_LIBRARY_IMPL(genaccel, CUDA, m) {
  m.impl("nearest_code", TORCH_BOX(&nearest_code_on_cuda));
  m.impl("nearest_code_backward", TORCH_BOX(&nearest_code_backward_on_cuda));
}
#endif

}  // namespace genaccel
