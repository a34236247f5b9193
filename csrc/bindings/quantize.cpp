// SPDX-License-Identifier: Apache-2.0
// Nearest code words, and the rate of soft assignments to them; indices are int64.
#include <tuple>

#include "bindings/checks.h"
#include "bindings/launch.h"
#include "quantize/nearest_code.h"
#include "quantize/soft_cross_entropy.h"
#include "quantize/soft_cross_entropy_backward.h"

namespace genaccel {
namespace {

constexpr int64_t kRowsPerTask = 64;  // a task is at least some 10 microseconds of search
constexpr int64_t kMaxCodes = int64_t{1} << 30;  // the search counts in int, to whole vectors

void check_codes(const Tensor& features, const Tensor& codebook, const char* op) {
  check_shape(features, {kAnySize, kAnySize}, op, "features");
  check_shape(codebook, {kAnySize, features.size(1)}, op, "codebook");
  check_same_kind(features, codebook, op, "codebook");
  check_range(codebook.size(0), 1, kMaxCodes, op, "code words");
}

Tensor new_indices(const Tensor& features) {
  return torch::stable::new_empty(features, {features.size(0)}, ScalarType::Long);
}

// Unit-norm code words.
std::tuple<Tensor, Tensor> nearest_code(const Tensor& features, const Tensor& codebook) {
  const char* op = "nearest_code";
  check_codes(features, codebook, op);
  const int64_t rows = features.size(0);
  const int64_t num_codes = codebook.size(0);
  const int64_t dim = features.size(1);
  Tensor quantized = torch::stable::empty_like(features);
  Tensor indices = new_indices(features);
  Tensor codes = torch::stable::empty_like(codebook);
  dispatch_float_or_double(features, op, [&](auto zero) {
    using T = decltype(zero);
    const T* in = elements<T>(features);
    const T* book = elements<T>(codebook);
    T* code = mutable_elements<T>(codes);
    T* out = mutable_elements<T>(quantized);
    int64_t* index = mutable_elements<int64_t>(indices);
    launch(
        op, features,
        [&] {
          Tensor packed =
              torch::stable::new_empty(codebook, {quantize::packed_codes_size<T>(num_codes, dim)});
          T* pack = mutable_elements<T>(packed);
          quantize::pack_codes_cpu<T>(book, code, pack, num_codes, dim);
          torch::stable::parallel_for(0, rows, kRowsPerTask, [=](int64_t begin, int64_t end) {
            quantize::nearest_code_cpu<T>(in, code, pack, out, index, begin, end, num_codes, dim);
          });
        },
        [=](auto stream) {
          return quantize::nearest_code_cuda<T>(in, book, code, out, index, rows, num_codes, dim,
                                                stream);
        });
  });
  return {quantized, indices};
}

Tensor nearest_code_backward(const Tensor& grad, const Tensor& features) {
  const char* op = "nearest_code_backward";
  check_shape(features, {kAnySize, kAnySize}, op, "features");
  check_like(grad, features, op, "grad");
  const int64_t rows = features.size(0);
  const int64_t dim = features.size(1);
  Tensor result = torch::stable::empty_like(features);
  dispatch_float_or_double(features, op, [&](auto zero) {
    using T = decltype(zero);
    const T* g = elements<T>(grad);
    const T* u = elements<T>(features);
    T* out = mutable_elements<T>(result);
    launch(
        op, features, rows, 1024,
        [=](int64_t begin, int64_t end) {
          quantize::nearest_code_backward_cpu<T>(g, u, out, begin, end, dim);
        },
        [=](auto stream) {
          return quantize::nearest_code_backward_cuda<T>(g, u, out, rows, dim, stream);
        });
  });
  return result;
}

// Calls f(T{}, Z{}) with the element types of features and logits: double and double, or float and
// float, Half or BFloat16.
template <typename F>
void dispatch_soft(const Tensor& features, const Tensor& logits, const char* op, const F& f) {
  if (features.scalar_type() == ScalarType::Double) {
    STD_TORCH_CHECK(logits.scalar_type() == ScalarType::Double, op,
                    ": logits must be float64 as features are");
    return f(double{}, double{});
  }
  STD_TORCH_CHECK(features.scalar_type() == ScalarType::Float, op,
                  ": features must be float32 or float64");
  switch (logits.scalar_type()) {
    case ScalarType::Float:
      return f(float{}, float{});
    case ScalarType::Half:
      return f(float{}, Half{});
    case ScalarType::BFloat16:
      return f(float{}, BFloat16{});
    default:
      STD_TORCH_CHECK(false, op, ": logits must be float16, bfloat16 or float32");
  }
}

void check_soft_cross_entropy(const Tensor& features, const Tensor& codebook, const Tensor& logits,
                              double temperature, const char* op) {
  check_codes(features, codebook, op);
  check_shape(logits, {features.size(0), codebook.size(0)}, op, "logits");
  check_place(logits, features, op, "logits");
  STD_TORCH_CHECK(features.size(1) > 0, op, ": features must have at least one channel");
  STD_TORCH_CHECK(temperature > 0 && temperature - temperature == 0, op,
                  ": temperature must be above 0 and finite, got ", temperature);
}

template <typename T>
Tensor packed_soft_codes(const Tensor& codebook) {
  const int64_t num_codes = codebook.size(0);
  const int64_t dim = codebook.size(1);
  Tensor packed =
      torch::stable::new_empty(codebook, {quantize::packed_soft_codes_size<T>(num_codes, dim)});
  quantize::pack_soft_codes_cpu(elements<T>(codebook), mutable_elements<T>(packed), num_codes, dim);
  return packed;
}

Tensor new_bytes(const Tensor& features, int64_t count) {
  return torch::stable::new_empty(features, {count}, ScalarType::Byte);
}

// Any code words. The statistics are for the backward.
std::tuple<Tensor, Tensor, Tensor> soft_cross_entropy(const Tensor& features,
                                                      const Tensor& codebook, const Tensor& logits,
                                                      double temperature) {
  const char* op = "soft_cross_entropy";
  check_soft_cross_entropy(features, codebook, logits, temperature, op);
  const int64_t rows = features.size(0);
  Tensor rate = torch::stable::new_empty(features, {rows});
  Tensor indices = new_indices(features);
  Tensor statistics = torch::stable::new_empty(features, {rows, quantize::soft_codes::kStatistics});
  dispatch_soft(features, logits, op, [&](auto zero, auto zero_logit) {
    using T = decltype(zero);
    using Z = decltype(zero_logit);
    const quantize::SoftCrossEntropy<T, Z> problem{elements<T>(features),
                                                   elements<T>(codebook),
                                                   elements<Z>(logits),
                                                   rows,
                                                   codebook.size(0),
                                                   features.size(1),
                                                   temperature,
                                                   mutable_elements<T>(rate),
                                                   mutable_elements<int64_t>(indices),
                                                   mutable_elements<T>(statistics)};
    launch(
        op, features,
        [&] {
          const Tensor packed = packed_soft_codes<T>(codebook);
          const T* pack = elements<T>(packed);
          torch::stable::parallel_for(0, rows, kRowsPerTask, [&](int64_t begin, int64_t end) {
            quantize::soft_cross_entropy_cpu(problem, pack, begin, end);
          });
        },
        [&](auto stream) {
          Tensor workspace = new_bytes(features, quantize::soft_cross_entropy_workspace_bytes<T>(
                                                     rows, problem.num_codes, problem.dim));
          return quantize::soft_cross_entropy_cuda(problem, workspace.mutable_data_ptr(), stream);
        });
  });
  return {rate, indices, statistics};
}

// Gradients that are not wanted have no elements.
std::tuple<Tensor, Tensor, Tensor> soft_cross_entropy_backward(
    const Tensor& grad, const Tensor& features, const Tensor& codebook, const Tensor& logits,
    const Tensor& indices, const Tensor& statistics, double temperature, bool with_features,
    bool with_codebook, bool with_logits) {
  const char* op = "soft_cross_entropy_backward";
  check_soft_cross_entropy(features, codebook, logits, temperature, op);
  const int64_t rows = features.size(0);
  check_shape(grad, {rows}, op, "grad");
  check_same_kind(features, grad, op, "grad");
  check_shape(statistics, {rows, quantize::soft_codes::kStatistics}, op, "statistics");
  check_same_kind(features, statistics, op, "statistics");
  const auto* index = checked<int64_t>(indices, {rows}, features, op, "indices");
  for (int64_t n = 0; n < rows && !features.is_cuda(); ++n) {
    check_range(index[n], 0, codebook.size(0) - 1, op, "indices");
  }
  const auto new_gradient = [](const Tensor& tensor, bool wanted) {
    return wanted ? torch::stable::empty_like(tensor) : torch::stable::new_empty(tensor, {0});
  };
  Tensor to_features = new_gradient(features, with_features);
  Tensor to_codebook = new_gradient(codebook, with_codebook);
  Tensor to_logits = new_gradient(logits, with_logits);
  dispatch_soft(features, logits, op, [&](auto zero, auto zero_logit) {
    using T = decltype(zero);
    using Z = decltype(zero_logit);
    const quantize::SoftCrossEntropyBackward<T, Z> problem{
        elements<T>(grad),
        elements<T>(features),
        elements<T>(codebook),
        elements<Z>(logits),
        index,
        elements<T>(statistics),
        rows,
        codebook.size(0),
        features.size(1),
        temperature,
        with_features ? mutable_elements<T>(to_features) : nullptr,
        with_codebook ? mutable_elements<T>(to_codebook) : nullptr,
        with_logits ? mutable_elements<Z>(to_logits) : nullptr};
    launch(
        op, features,
        [&] {
          const Tensor packed = packed_soft_codes<T>(codebook);
          const T* pack = elements<T>(packed);
          Tensor residues = torch::stable::new_empty(features, {rows});
          T* residue = mutable_elements<T>(residues);
          torch::stable::parallel_for(0, rows, kRowsPerTask, [&](int64_t begin, int64_t end) {
            quantize::soft_cross_entropy_backward_cpu(problem, pack, residue, begin, end);
          });
          if (with_codebook) {
            const int64_t tiles = quantize::soft_code_tiles<T>(problem.num_codes);
            torch::stable::parallel_for(0, tiles, 1, [&](int64_t begin, int64_t end) {
              quantize::soft_codebook_backward_cpu(problem, pack, residue, begin, end);
            });
          }
        },
        [&](auto stream) {
          Tensor workspace =
              new_bytes(features, quantize::soft_cross_entropy_backward_workspace_bytes<T>(
                                      rows, problem.num_codes, problem.dim, with_codebook));
          return quantize::soft_cross_entropy_backward_cuda(problem, workspace.mutable_data_ptr(),
                                                            stream);
        });
  });
  return {to_features, to_codebook, to_logits};
}

const Op kOps[] = {
    {"nearest_code(Tensor features, Tensor codebook) -> (Tensor quantized, Tensor indices)",
     TORCH_BOX(&nearest_code)},
    {"nearest_code_backward(Tensor grad, Tensor features) -> Tensor",
     TORCH_BOX(&nearest_code_backward)},
    {"soft_cross_entropy(Tensor features, Tensor codebook, Tensor logits, float temperature) -> "
     "(Tensor rate, Tensor indices, Tensor statistics)",
     TORCH_BOX(&soft_cross_entropy)},
    {"soft_cross_entropy_backward(Tensor grad, Tensor features, Tensor codebook, Tensor logits, "
     "Tensor indices, Tensor statistics, float temperature, bool with_features, "
     "bool with_codebook, bool with_logits) -> "
     "(Tensor grad_features, Tensor grad_codebook, Tensor grad_logits)",
     TORCH_BOX(&soft_cross_entropy_backward)},
};

}  // namespace

GENACCEL_REGISTER(kOps)

}  // namespace genaccel
