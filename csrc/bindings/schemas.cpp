// SPDX-License-Identifier: Apache-2.0
// Every op of the library.
#include "bindings/torch_compat.h"

STABLE_TORCH_LIBRARY(genaccel, m) {
  // quantize: unit-norm code words; indices are int64
  m.def("nearest_code(Tensor features, Tensor codebook) -> (Tensor quantized, Tensor indices)");
  m.def("nearest_code_backward(Tensor grad, Tensor features) -> Tensor");

  // entropy: integer tables for range coders
  m.def("pmf_to_cdf(Tensor pmf, int precision) -> Tensor");

  // tokens: partial updates of cached blocks; indices are int64. The cache is written in place:
  // most of it stays as it is
  m.def("select_tokens(Tensor score, int k, int groups) -> Tensor");
  m.def("token_scores(Tensor x, Tensor? reference) -> Tensor");
  m.def(
      "gather_norm_modulate(Tensor x, Tensor index, Tensor shift, Tensor scale, float eps) -> "
      "Tensor");
  m.def(
      "scatter_gated_residual(Tensor residual, Tensor(a!) cache, Tensor rows, Tensor index, "
      "Tensor gate) -> Tensor");

  // forecast: history and coefficients are those of all tensors, one after the other
  m.def(
      "predict_add(Tensor[] bases, Tensor[] history, float[] coefficients, float[] offsets) -> "
      "Tensor[]");
}
