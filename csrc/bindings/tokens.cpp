// SPDX-License-Identifier: Apache-2.0
#include <optional>
#include <vector>

#include "bindings/checks.h"
#include "bindings/torch_compat.h"
#include "tokens/gather_norm_modulate.h"
#include "tokens/scatter_gated_residual.h"
#include "tokens/select_tokens.h"
#include "tokens/token_scores.h"

namespace genaccel {
namespace {

constexpr int64_t kElementsPerTask = 32768;  // as torch does: a task is some 10 microseconds

constexpr int64_t kMaxTokens = int64_t{1} << 30;  // the kernel counts in int

int64_t rows_per_task(int64_t channels) { return 1 + kElementsPerTask / (channels + 1); }

void check_select_tokens(const Tensor& score, int64_t k, int64_t groups) {
  const char* op = "select_tokens";
  check_dim(score, 2, op, "score");
  check_contiguous(score, op, "score");
  STD_TORCH_CHECK(score.scalar_type() == ScalarType::Float, op, ": score must be float32");
  STD_TORCH_CHECK(score.size(1) <= kMaxTokens, op, ": score must have at most ", kMaxTokens,
                  " tokens");
  STD_TORCH_CHECK(k >= 0 && k <= score.size(1), op, ": k must be in [0, ", score.size(1), "], got ",
                  k);
  STD_TORCH_CHECK(groups >= 1 && score.size(0) % groups == 0, op,
                  ": groups must divide the batch of ", score.size(0), ", got ", groups);
}

Tensor new_index(const Tensor& score, int64_t k) {
  return torch::stable::new_empty(score, {score.size(0), k}, ScalarType::Long);
}

Tensor select_tokens_on_cpu(const Tensor& score, int64_t k, int64_t groups) {
  check_select_tokens(score, k, groups);
  Tensor index = new_index(score, k);
  const float* in = score.const_data_ptr<float>();
  int64_t* out = index.mutable_data_ptr<int64_t>();
  const int64_t rows = score.size(0) / groups;
  const int64_t tokens = score.size(1);
  torch::stable::parallel_for(0, rows, rows_per_task(8 * tokens), [=](int64_t begin, int64_t end) {
    tokens::select_tokens_cpu(in, out, begin, end, rows, groups, tokens, k);
  });
  return index;
}

void check_token_scores(const Tensor& x, const std::optional<Tensor>& reference) {
  const char* op = "token_scores";
  check_dim(x, 3, op, "x");
  check_contiguous(x, op, "x");
  if (reference.has_value()) {
    check_dim(*reference, 3, op, "reference");
    check_contiguous(*reference, op, "reference");
    for (int64_t axis = 0; axis < 3; ++axis) {
      check_size(*reference, axis, x.size(axis), op, "reference");
    }
    check_same_kind(x, *reference, op, "reference");
  }
}

Tensor new_score(const Tensor& x) {
  return torch::stable::new_empty(x, {x.size(0), x.size(1)}, ScalarType::Float);
}

Tensor token_scores_on_cpu(const Tensor& x, const std::optional<Tensor>& reference) {
  check_token_scores(x, reference);
  Tensor score = new_score(x);
  dispatch_floating(x, "token_scores", [&](auto zero) {
    using T = decltype(zero);
    const T* in = elements<T>(x);
    const T* old = reference.has_value() ? elements<T>(*reference) : nullptr;
    float* out = score.mutable_data_ptr<float>();
    const int64_t channels = x.size(2);
    torch::stable::parallel_for(0, x.size(0) * x.size(1), rows_per_task(channels),
                                [=](int64_t begin, int64_t end) {
                                  tokens::token_scores_cpu<T>(in, old, out, begin, end, channels);
                                });
  });
  return score;
}

void check_index(const Tensor& index, const Tensor& x, const char* op) {
  check_dim(index, 2, op, "index");
  check_contiguous(index, op, "index");
  check_size(index, 0, x.size(0), op, "index");
  STD_TORCH_CHECK(index.scalar_type() == ScalarType::Long, op, ": index must be int64");
  STD_TORCH_CHECK(
      index.is_cuda() == x.is_cuda() && index.get_device_index() == x.get_device_index(), op,
      ": index must be on the device of the other arguments");
  STD_TORCH_CHECK(x.size(1) > 0 || index.size(1) == 0, op, ": no index is in range of 0 tokens");
}

void check_in_range(const Tensor& index, int64_t tokens, const char* op) {
  const int64_t* token = index.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < index.size(0) * index.size(1); ++i) {
    STD_TORCH_CHECK(token[i] >= 0 && token[i] < tokens, op, ": index must be in [0, ", tokens,
                    "), got ", token[i]);
  }
}

tokens::GatherShape check_gather(const Tensor& x, const Tensor& index, const Tensor& shift,
                                 const Tensor& scale) {
  const char* op = "gather_norm_modulate";
  check_dim(x, 3, op, "x");
  check_contiguous(x, op, "x");
  check_index(index, x, op);
  check_dense_rows(shift, x.size(0), x.size(2), op, "shift");
  check_dense_rows(scale, x.size(0), x.size(2), op, "scale");
  check_same_kind(x, shift, op, "shift");
  check_same_kind(x, scale, op, "scale");
  return {x.size(0), x.size(1), index.size(1), x.size(2), shift.stride(0), scale.stride(0)};
}

Tensor new_rows(const Tensor& x, const Tensor& index) {
  return torch::stable::new_empty(x, {x.size(0), index.size(1), x.size(2)});
}

Tensor gather_norm_modulate_on_cpu(const Tensor& x, const Tensor& index, const Tensor& shift,
                                   const Tensor& scale, double eps) {
  const tokens::GatherShape shape = check_gather(x, index, shift, scale);
  check_in_range(index, shape.tokens, "gather_norm_modulate");
  Tensor rows = new_rows(x, index);
  dispatch_floating(x, "gather_norm_modulate", [&](auto zero) {
    using T = decltype(zero);
    const T* in = elements<T>(x);
    const int64_t* token = index.const_data_ptr<int64_t>();
    const T* add = elements<T>(shift);
    const T* multiply = elements<T>(scale);
    T* out = mutable_elements<T>(rows);
    torch::stable::parallel_for(0, shape.batch * shape.selected, rows_per_task(shape.channels),
                                [=](int64_t begin, int64_t end) {
                                  tokens::gather_norm_modulate_cpu<T>(in, token, add, multiply, out,
                                                                      begin, end, shape, eps);
                                });
  });
  return rows;
}

tokens::ScatterShape check_scatter(const Tensor& residual, const Tensor& cache, const Tensor& rows,
                                   const Tensor& index, const Tensor& gate) {
  const char* op = "scatter_gated_residual";
  check_dim(residual, 3, op, "residual");
  check_contiguous(residual, op, "residual");
  check_index(index, residual, op);
  STD_TORCH_CHECK(index.size(1) <= INT32_MAX, op, ": index must have less than 2^31 columns");
  check_dim(cache, 3, op, "cache");
  check_contiguous(cache, op, "cache");
  check_dim(rows, 3, op, "rows");
  check_contiguous(rows, op, "rows");
  for (int64_t axis = 0; axis < 3; ++axis) {
    check_size(cache, axis, residual.size(axis), op, "cache");
    check_size(rows, axis, axis == 1 ? index.size(1) : residual.size(axis), op, "rows");
  }
  check_dense_rows(gate, residual.size(0), residual.size(2), op, "gate");
  check_same_kind(residual, cache, op, "cache");
  check_same_kind(residual, rows, op, "rows");
  check_same_kind(residual, gate, op, "gate");
  return {residual.size(0), residual.size(1), index.size(1), residual.size(2), gate.stride(0)};
}

// [batch, tokens]: which row of its sample goes to a token, the last of several, or -1.
std::vector<int32_t> positions(const Tensor& index, const tokens::ScatterShape& shape) {
  std::vector<int32_t> position(shape.batch * shape.tokens, -1);
  const int64_t* token = index.const_data_ptr<int64_t>();
  for (int64_t b = 0; b < shape.batch; ++b) {
    for (int64_t j = 0; j < shape.selected; ++j) {
      position[b * shape.tokens + token[b * shape.selected + j]] = static_cast<int32_t>(j);
    }
  }
  return position;
}

Tensor scatter_gated_residual_on_cpu(const Tensor& residual, Tensor cache, const Tensor& rows,
                                     const Tensor& index, const Tensor& gate) {
  const tokens::ScatterShape shape = check_scatter(residual, cache, rows, index, gate);
  check_in_range(index, shape.tokens, "scatter_gated_residual");
  Tensor result = torch::stable::empty_like(residual);
  const std::vector<int32_t> position = positions(index, shape);
  dispatch_floating(residual, "scatter_gated_residual", [&](auto zero) {
    using T = decltype(zero);
    const T* in = elements<T>(residual);
    T* kept = mutable_elements<T>(cache);
    const T* fresh = elements<T>(rows);
    const T* factor = elements<T>(gate);
    T* out = mutable_elements<T>(result);
    const int32_t* at = position.data();
    torch::stable::parallel_for(0, shape.batch * shape.tokens, rows_per_task(shape.channels),
                                [=](int64_t begin, int64_t end) {
                                  tokens::scatter_gated_residual_cpu<T>(in, kept, fresh, at, factor,
                                                                        out, begin, end, shape);
                                });
  });
  return result;
}

#if defined(GENACCEL_WITH_CUDA)
Tensor select_tokens_on_cuda(const Tensor& score, int64_t k, int64_t groups) {
  check_select_tokens(score, k, groups);
  const DeviceGuard guard(score.get_device_index());
  Tensor index = new_index(score, k);
  raise_if(tokens::select_tokens_cuda(score.const_data_ptr<float>(),
                                      index.mutable_data_ptr<int64_t>(), score.size(0) / groups,
                                      groups, score.size(1), k, current_stream(score)),
           "select_tokens");
  return index;
}

Tensor token_scores_on_cuda(const Tensor& x, const std::optional<Tensor>& reference) {
  check_token_scores(x, reference);
  const DeviceGuard guard(x.get_device_index());
  Tensor score = new_score(x);
  dispatch_floating(x, "token_scores", [&](auto zero) {
    using T = decltype(zero);
    raise_if(tokens::token_scores_cuda<T>(elements<T>(x),
                                          reference.has_value() ? elements<T>(*reference) : nullptr,
                                          score.mutable_data_ptr<float>(), x.size(0) * x.size(1),
                                          x.size(2), current_stream(x)),
             "token_scores");
  });
  return score;
}

Tensor gather_norm_modulate_on_cuda(const Tensor& x, const Tensor& index, const Tensor& shift,
                                    const Tensor& scale, double eps) {
  const tokens::GatherShape shape = check_gather(x, index, shift, scale);
  const DeviceGuard guard(x.get_device_index());
  Tensor rows = new_rows(x, index);
  dispatch_floating(x, "gather_norm_modulate", [&](auto zero) {
    using T = decltype(zero);
    raise_if(tokens::gather_norm_modulate_cuda<T>(
                 elements<T>(x), index.const_data_ptr<int64_t>(), elements<T>(shift),
                 elements<T>(scale), mutable_elements<T>(rows), shape, eps, current_stream(x)),
             "gather_norm_modulate");
  });
  return rows;
}

Tensor scatter_gated_residual_on_cuda(const Tensor& residual, Tensor cache, const Tensor& rows,
                                      const Tensor& index, const Tensor& gate) {
  const tokens::ScatterShape shape = check_scatter(residual, cache, rows, index, gate);
  const DeviceGuard guard(residual.get_device_index());
  Tensor result = torch::stable::empty_like(residual);
  dispatch_floating(residual, "scatter_gated_residual", [&](auto zero) {
    using T = decltype(zero);
    raise_if(tokens::scatter_gated_residual_cuda<T>(
                 elements<T>(residual), mutable_elements<T>(cache), elements<T>(rows),
                 index.const_data_ptr<int64_t>(), elements<T>(gate), mutable_elements<T>(result),
                 shape, current_stream(residual)),
             "scatter_gated_residual");
  });
  return result;
}
#endif

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(genaccel, CPU, m) {
  m.impl("select_tokens", TORCH_BOX(&select_tokens_on_cpu));
  m.impl("token_scores", TORCH_BOX(&token_scores_on_cpu));
  m.impl("gather_norm_modulate", TORCH_BOX(&gather_norm_modulate_on_cpu));
  m.impl("scatter_gated_residual", TORCH_BOX(&scatter_gated_residual_on_cpu));
}

#if defined(GENACCEL_WITH_CUDA)
STABLE_TORCH_LIBRARY_IMPL(genaccel, CUDA, m) {
  m.impl("select_tokens", TORCH_BOX(&select_tokens_on_cuda));
  m.impl("token_scores", TORCH_BOX(&token_scores_on_cuda));
  m.impl("gather_norm_modulate", TORCH_BOX(&gather_norm_modulate_on_cuda));
  m.impl("scatter_gated_residual", TORCH_BOX(&scatter_gated_residual_on_cuda));
}
#endif

}  // namespace genaccel
