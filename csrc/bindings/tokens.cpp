// SPDX-License-Identifier: Apache-2.0
// Which ones of a cached block's tokens to compute anew; indices are int64.
#include <optional>

#include "bindings/checks.h"
#include "bindings/launch.h"
#include "tokens/select_tokens.h"
#include "tokens/token_scores.h"

namespace genaccel {
namespace {

constexpr int64_t kMaxTokens = int64_t{1} << 30;  // the kernel counts in int

Tensor select_tokens(const Tensor& score, int64_t k, int64_t groups) {
  const char* op = "select_tokens";
  const float* in = checked<float>(score, {kAnySize, kAnySize}, score, op, "score");
  check_range(score.size(1), 0, kMaxTokens, op, "tokens");
  check_range(k, 0, score.size(1), op, "k");
  STD_TORCH_CHECK(groups >= 1 && score.size(0) % groups == 0, op,
                  ": groups must divide the batch of ", score.size(0), ", got ", groups);
  const int64_t rows = score.size(0) / groups;
  const int64_t tokens = score.size(1);
  Tensor index = torch::stable::new_empty(score, {score.size(0), k}, ScalarType::Long);
  int64_t* out = mutable_elements<int64_t>(index);
  launch(
      op, score, rows, rows_per_task(8 * tokens),
      [=](int64_t begin, int64_t end) {
        tokens::select_tokens_cpu(in, out, begin, end, rows, groups, tokens, k);
      },
      [=](auto stream) {
        return tokens::select_tokens_cuda(in, out, rows, groups, tokens, k, stream);
      });
  return index;
}

Tensor token_scores(const Tensor& x, const std::optional<Tensor>& reference) {
  const char* op = "token_scores";
  check_shape(x, {kAnySize, kAnySize, kAnySize}, op, "x");
  if (reference.has_value()) {
    check_like(*reference, x, op, "reference");
  }
  const int64_t rows = x.size(0) * x.size(1);
  const int64_t channels = x.size(2);
  Tensor score = torch::stable::new_empty(x, {x.size(0), x.size(1)}, ScalarType::Float);
  dispatch_floating(x, op, [&](auto zero) {
    using T = decltype(zero);
    const T* in = elements<T>(x);
    const T* old = reference.has_value() ? elements<T>(*reference) : nullptr;
    float* out = mutable_elements<float>(score);
    launch(
        op, x, rows, rows_per_task(channels),
        [=](int64_t begin, int64_t end) {
          tokens::token_scores_cpu<T>(in, old, out, begin, end, channels);
        },
        [=](auto stream) {
          return tokens::token_scores_cuda<T>(in, old, out, rows, channels, stream);
        });
  });
  return score;
}

const Op kOps[] = {
    {"select_tokens(Tensor score, int k, int groups) -> Tensor", TORCH_BOX(&select_tokens)},
    {"token_scores(Tensor x, Tensor? reference) -> Tensor", TORCH_BOX(&token_scores)},
};

}  // namespace

GENACCEL_REGISTER(kOps)

}  // namespace genaccel
