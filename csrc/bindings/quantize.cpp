// SPDX-License-Identifier: Apache-2.0
#include <tuple>

#include "bindings/checks.h"
#include "bindings/torch_compat.h"
#include "quantize/nearest_code.h"
#include "quantize/soft_cross_entropy.h"
#include "quantize/soft_cross_entropy_backward.h"

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

void check_on_device_of(const Tensor& features, const Tensor& other, const char* op,
                        const char* name) {
  STD_TORCH_CHECK(other.is_cuda() == features.is_cuda() &&
                      other.get_device_index() == features.get_device_index(),
                  op, ": ", name, " must be on the device of features");
}

void check_soft_cross_entropy(const Tensor& features, const Tensor& codebook, const Tensor& logits,
                              double temperature, const char* op) {
  check_dim(features, 2, op, "features");
  check_dim(codebook, 2, op, "codebook");
  check_dim(logits, 2, op, "logits");
  check_contiguous(features, op, "features");
  check_contiguous(codebook, op, "codebook");
  check_contiguous(logits, op, "logits");
  check_size(codebook, 1, features.size(1), op, "codebook");
  check_size(logits, 0, features.size(0), op, "logits");
  check_size(logits, 1, codebook.size(0), op, "logits");
  check_same_kind(features, codebook, op, "codebook");
  check_on_device_of(features, logits, op, "logits");
  STD_TORCH_CHECK(features.size(1) > 0, op, ": features must have at least one channel");
  STD_TORCH_CHECK(codebook.size(0) > 0 && codebook.size(0) <= INT32_MAX, op,
                  ": codebook must have 1 to 2^31 - 1 rows, got ", codebook.size(0));
  STD_TORCH_CHECK(temperature > 0 && temperature - temperature == 0, op,
                  ": temperature must be above 0 and finite, got ", temperature);
}

struct SoftOutputs {
  Tensor rate, indices, statistics;

  explicit SoftOutputs(const Tensor& features)
      : rate(torch::stable::new_empty(features, {features.size(0)})),
        indices(new_indices(features)),
        statistics(
            torch::stable::new_empty(features, {features.size(0), soft_codes::kStatistics})) {}

  std::tuple<Tensor, Tensor, Tensor> as_tuple() const { return {rate, indices, statistics}; }

  template <typename T, typename Z>
  quantize::SoftCrossEntropy<T, Z> problem(const Tensor& features, const Tensor& codebook,
                                           const Tensor& logits, double temperature) const {
    return {elements<T>(features),
            elements<T>(codebook),
            elements<Z>(logits),
            features.size(0),
            codebook.size(0),
            features.size(1),
            temperature,
            mutable_elements<T>(rate),
            indices.mutable_data_ptr<int64_t>(),
            mutable_elements<T>(statistics)};
  }
};

template <typename T>
Tensor packed_soft_codes(const Tensor& codebook) {
  const int64_t num_codes = codebook.size(0);
  const int64_t dim = codebook.size(1);
  Tensor packed =
      torch::stable::new_empty(codebook, {quantize::packed_soft_codes_size<T>(num_codes, dim)});
  quantize::pack_soft_codes_cpu(elements<T>(codebook), mutable_elements<T>(packed), num_codes, dim);
  return packed;
}

std::tuple<Tensor, Tensor, Tensor> soft_cross_entropy_on_cpu(const Tensor& features,
                                                             const Tensor& codebook,
                                                             const Tensor& logits,
                                                             double temperature) {
  check_soft_cross_entropy(features, codebook, logits, temperature, "soft_cross_entropy");
  const SoftOutputs outputs(features);
  dispatch_soft(features, logits, "soft_cross_entropy", [&](auto zero, auto zero_logit) {
    using T = decltype(zero);
    using Z = decltype(zero_logit);
    const Tensor packed = packed_soft_codes<T>(codebook);
    const T* pack = elements<T>(packed);
    const auto problem = outputs.problem<T, Z>(features, codebook, logits, temperature);
    torch::stable::parallel_for(0, problem.rows, kRowsPerTask, [=](int64_t begin, int64_t end) {
      quantize::soft_cross_entropy_cpu(problem, pack, begin, end);
    });
  });
  return outputs.as_tuple();
}

struct SoftBackwardInputs {
  const Tensor& grad;
  const Tensor& features;
  const Tensor& codebook;
  const Tensor& logits;
  const Tensor& indices;
  const Tensor& statistics;
  double temperature;

  void check() const {
    const char* op = "soft_cross_entropy_backward";
    check_soft_cross_entropy(features, codebook, logits, temperature, op);
    check_dim(grad, 1, op, "grad");
    check_dim(indices, 1, op, "indices");
    check_dim(statistics, 2, op, "statistics");
    check_contiguous(grad, op, "grad");
    check_contiguous(indices, op, "indices");
    check_contiguous(statistics, op, "statistics");
    check_size(grad, 0, features.size(0), op, "grad");
    check_size(indices, 0, features.size(0), op, "indices");
    check_size(statistics, 0, features.size(0), op, "statistics");
    check_size(statistics, 1, soft_codes::kStatistics, op, "statistics");
    check_same_kind(features, grad, op, "grad");
    check_same_kind(features, statistics, op, "statistics");
    check_on_device_of(features, indices, op, "indices");
    STD_TORCH_CHECK(indices.scalar_type() == ScalarType::Long, op, ": indices must be int64");
  }
};

// Gradients that are not wanted have no elements.
struct SoftGradients {
  bool with_features, with_codebook, with_logits;
  Tensor features, codebook, logits;

  SoftGradients(const SoftBackwardInputs& in, bool features_wanted, bool codebook_wanted,
                bool logits_wanted)
      : with_features(features_wanted),
        with_codebook(codebook_wanted),
        with_logits(logits_wanted),
        features(like_if(features_wanted, in.features)),
        codebook(like_if(codebook_wanted, in.codebook)),
        logits(like_if(logits_wanted, in.logits)) {}

  static Tensor like_if(bool wanted, const Tensor& tensor) {
    return wanted ? torch::stable::empty_like(tensor) : torch::stable::new_empty(tensor, {0});
  }

  std::tuple<Tensor, Tensor, Tensor> as_tuple() const { return {features, codebook, logits}; }

  template <typename T, typename Z>
  quantize::SoftCrossEntropyBackward<T, Z> problem(const SoftBackwardInputs& in) const {
    return {elements<T>(in.grad),
            elements<T>(in.features),
            elements<T>(in.codebook),
            elements<Z>(in.logits),
            in.indices.const_data_ptr<int64_t>(),
            elements<T>(in.statistics),
            in.features.size(0),
            in.codebook.size(0),
            in.features.size(1),
            in.temperature,
            with_features ? mutable_elements<T>(features) : nullptr,
            with_codebook ? mutable_elements<T>(codebook) : nullptr,
            with_logits ? mutable_elements<Z>(logits) : nullptr};
  }
};

std::tuple<Tensor, Tensor, Tensor> soft_cross_entropy_backward_on_cpu(
    const Tensor& grad, const Tensor& features, const Tensor& codebook, const Tensor& logits,
    const Tensor& indices, const Tensor& statistics, double temperature, bool with_features,
    bool with_codebook, bool with_logits) {
  const SoftBackwardInputs in = {grad,    features,   codebook,   logits,
                                 indices, statistics, temperature};
  in.check();
  const int64_t* index = indices.const_data_ptr<int64_t>();
  for (int64_t n = 0; n < indices.size(0); ++n) {
    STD_TORCH_CHECK(index[n] >= 0 && index[n] < codebook.size(0),
                    "soft_cross_entropy_backward: indices must be in [0, ", codebook.size(0),
                    "), got ", index[n]);
  }
  const SoftGradients gradients(in, with_features, with_codebook, with_logits);
  dispatch_soft(features, logits, "soft_cross_entropy_backward", [&](auto zero, auto zero_logit) {
    using T = decltype(zero);
    using Z = decltype(zero_logit);
    const Tensor packed = packed_soft_codes<T>(codebook);
    const T* pack = elements<T>(packed);
    const Tensor residues = torch::stable::new_empty(features, {features.size(0)});
    T* residue = mutable_elements<T>(residues);
    const auto problem = gradients.problem<T, Z>(in);
    torch::stable::parallel_for(0, problem.rows, kRowsPerTask, [=](int64_t begin, int64_t end) {
      quantize::soft_cross_entropy_backward_cpu(problem, pack, residue, begin, end);
    });
    if (with_codebook) {
      torch::stable::parallel_for(
          0, quantize::soft_code_tiles<T>(problem.num_codes), 1, [=](int64_t begin, int64_t end) {
            quantize::soft_codebook_backward_cpu(problem, pack, residue, begin, end);
          });
    }
  });
  return gradients.as_tuple();
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

Tensor bytes(const Tensor& features, int64_t count) {
  return torch::stable::new_empty(features, {count}, ScalarType::Byte);
}

std::tuple<Tensor, Tensor, Tensor> soft_cross_entropy_on_cuda(const Tensor& features,
                                                              const Tensor& codebook,
                                                              const Tensor& logits,
                                                              double temperature) {
  check_soft_cross_entropy(features, codebook, logits, temperature, "soft_cross_entropy");
  const DeviceGuard guard(features.get_device_index());
  const SoftOutputs outputs(features);
  dispatch_soft(features, logits, "soft_cross_entropy", [&](auto zero, auto zero_logit) {
    using T = decltype(zero);
    using Z = decltype(zero_logit);
    const Tensor workspace =
        bytes(features, quantize::soft_cross_entropy_workspace_bytes<T>(
                            features.size(0), codebook.size(0), features.size(1)));
    raise_if(quantize::soft_cross_entropy_cuda(
                 outputs.problem<T, Z>(features, codebook, logits, temperature),
                 workspace.mutable_data_ptr(), current_stream(features)),
             "soft_cross_entropy");
  });
  return outputs.as_tuple();
}

std::tuple<Tensor, Tensor, Tensor> soft_cross_entropy_backward_on_cuda(
    const Tensor& grad, const Tensor& features, const Tensor& codebook, const Tensor& logits,
    const Tensor& indices, const Tensor& statistics, double temperature, bool with_features,
    bool with_codebook, bool with_logits) {
  const SoftBackwardInputs in = {grad,    features,   codebook,   logits,
                                 indices, statistics, temperature};
  in.check();
  const DeviceGuard guard(features.get_device_index());
  const SoftGradients gradients(in, with_features, with_codebook, with_logits);
  dispatch_soft(features, logits, "soft_cross_entropy_backward", [&](auto zero, auto zero_logit) {
    using T = decltype(zero);
    using Z = decltype(zero_logit);
    const Tensor workspace =
        bytes(features, quantize::soft_cross_entropy_backward_workspace_bytes<T>(
                            features.size(0), codebook.size(0), features.size(1), with_codebook));
    raise_if(
        quantize::soft_cross_entropy_backward_cuda(
            gradients.problem<T, Z>(in), workspace.mutable_data_ptr(), current_stream(features)),
        "soft_cross_entropy_backward");
  });
  return gradients.as_tuple();
}
#endif

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(genaccel, CPU, m) {
  m.impl("nearest_code", TORCH_BOX(&nearest_code_on_cpu));
  m.impl("nearest_code_backward", TORCH_BOX(&nearest_code_backward_on_cpu));
  m.impl("soft_cross_entropy", TORCH_BOX(&soft_cross_entropy_on_cpu));
  m.impl("soft_cross_entropy_backward", TORCH_BOX(&soft_cross_entropy_backward_on_cpu));
}

#if defined(GENACCEL_WITH_CUDA)
STABLE_TORCH_LIBRARY_IMPL(genaccel, CUDA, m) {
  m.impl("nearest_code", TORCH_BOX(&nearest_code_on_cuda));
  m.impl("nearest_code_backward", TORCH_BOX(&nearest_code_backward_on_cuda));
  m.impl("soft_cross_entropy", TORCH_BOX(&soft_cross_entropy_on_cuda));
  m.impl("soft_cross_entropy_backward", TORCH_BOX(&soft_cross_entropy_backward_on_cuda));
}
#endif

}  // namespace genaccel
