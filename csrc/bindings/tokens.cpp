// SPDX-License-Identifier: Apache-2.0
#include <optional>

#include "bindings/checks.h"
#include "bindings/torch_compat.h"
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
#endif

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(genaccel, CPU, m) {
  m.impl("select_tokens", TORCH_BOX(&select_tokens_on_cpu));
  m.impl("token_scores", TORCH_BOX(&token_scores_on_cpu));
}

#if defined(GENACCEL_WITH_CUDA)
STABLE_TORCH_LIBRARY_IMPL(genaccel, CUDA, m) {
  m.impl("select_tokens", TORCH_BOX(&select_tokens_on_cuda));
  m.impl("token_scores", TORCH_BOX(&token_scores_on_cuda));
}
#endif

}  // namespace genaccel
