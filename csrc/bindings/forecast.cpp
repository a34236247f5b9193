// SPDX-License-Identifier: Apache-2.0
// History and coefficients are those of all tensors, one after the other.
#include <algorithm>
#include <vector>

#include "bindings/checks.h"
#include "bindings/launch.h"
#include "forecast/predict_add.h"

namespace genaccel {
namespace {

using Tensors = std::vector<Tensor>;
using Numbers = std::vector<double>;

// The tensor that says what the t-th result looks like.
const Tensor& like(const Tensors& bases, const Tensors& history, int64_t t, int64_t count) {
  return bases.empty() ? history[t * (static_cast<int64_t>(history.size()) / count)] : bases[t];
}

void check_predict_add(const Tensors& bases, const Tensors& history, const Numbers& coefficients,
                       const Numbers& offsets) {
  const char* op = "predict_add";
  const auto count = static_cast<int64_t>(offsets.size());
  const auto terms = static_cast<int64_t>(history.size());
  STD_TORCH_CHECK(count > 0 && terms % count == 0, op, ": history must have a multiple of ", count,
                  " (at least 1) tensors, got ", terms);
  STD_TORCH_CHECK(terms / count <= forecast::kMaxTerms, op, ": at most ", forecast::kMaxTerms,
                  " history tensors each, got ", terms / count);
  STD_TORCH_CHECK(coefficients.size() == history.size(), op, ": coefficients must have ", terms,
                  " numbers, got ", coefficients.size());
  STD_TORCH_CHECK(bases.size() == offsets.size() || (bases.empty() && terms > 0), op,
                  ": bases must have ", count, " tensors, or none where there is history, got ",
                  bases.size());
  const Tensor& first = like(bases, history, 0, count);
  for (int64_t t = 0; t < count; ++t) {
    const Tensor& shape = like(bases, history, t, count);
    check_contiguous(shape, op, bases.empty() ? "history" : "bases");
    check_same_kind(first, shape, op, bases.empty() ? "history" : "bases");
    for (int64_t i = t * (terms / count); i < (t + 1) * (terms / count); ++i) {
      check_like(history[i], shape, op, "history");
    }
  }
}

// Pointers and weights of all tensors. Terms that weigh nothing are left out, and so not read.
template <typename T>
struct Predictions {
  std::vector<forecast::Prediction<T>> all;
  std::vector<const T*> history;
  std::vector<Accumulate<T>> coefficients;

  Predictions(const Tensors& bases, const Tensors& given, const Numbers& weights,
              const Numbers& offsets, const Tensors& out)
      : history(given.size()), coefficients(given.size()) {
    const size_t terms = given.size() / offsets.size();
    for (size_t t = 0; t < offsets.size(); ++t) {
      const size_t start = t * terms;
      int used = 0;
      for (size_t i = start; i < start + terms; ++i) {
        if (weights[i] != 0) {
          history[start + used] = elements<T>(given[i]);
          coefficients[start + used] = static_cast<Accumulate<T>>(weights[i]);
          ++used;
        }
      }
      all.push_back({mutable_elements<T>(out[t]), bases.empty() ? nullptr : elements<T>(bases[t]),
                     out[t].numel(), static_cast<Accumulate<T>>(offsets[t]), history.data() + start,
                     coefficients.data() + start, used});
    }
  }
};

// Elements [begin, end) of all tensors put one after the other.
template <typename T>
void predict_range(const std::vector<forecast::Prediction<T>>& all, int64_t begin, int64_t end) {
  int64_t start = 0;  // of this tensor
  for (const auto& prediction : all) {
    const int64_t from = std::max(begin - start, int64_t{0});
    const int64_t to = std::min(end - start, prediction.size);
    if (from < to) {
      forecast::predict_add_cpu<T>(prediction, from, to);
    }
    start += prediction.size;
  }
}

Tensors predict_add(const Tensors& bases, const Tensors& history, const Numbers& coefficients,
                    const Numbers& offsets) {
  const char* op = "predict_add";
  check_predict_add(bases, history, coefficients, offsets);
  const auto count = static_cast<int64_t>(offsets.size());
  Tensors out;
  int64_t size = 0;
  for (int64_t t = 0; t < count; ++t) {
    out.push_back(torch::stable::empty_like(like(bases, history, t, count)));
    size += out.back().numel();
  }
  dispatch_floating(out[0], op, [&](auto zero) {
    using T = decltype(zero);
    const Predictions<T> predictions(bases, history, coefficients, offsets, out);
    launch(
        op, out[0], size, kElementsPerTask,
        [&](int64_t begin, int64_t end) { predict_range(predictions.all, begin, end); },
        [&](auto stream) {
          return forecast::predict_add_cuda<T>(predictions.all.data(), count, stream);
        });
  });
  return out;
}

const Op kOps[] = {
    {"predict_add(Tensor[] bases, Tensor[] history, float[] coefficients, float[] offsets) -> "
     "Tensor[]",
     TORCH_BOX(&predict_add)},
};

}  // namespace

GENACCEL_REGISTER(kOps)

}  // namespace genaccel
