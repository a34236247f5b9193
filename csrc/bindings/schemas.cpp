// SPDX-License-Identifier: Apache-2.0
// Every op of the library.
#include "bindings/torch_compat.h"

STABLE_TORCH_LIBRARY(genaccel, m) {
  // quantize: unit-norm code words; indices are int64
  m.def("nearest_code(Tensor features, Tensor codebook) -> (Tensor quantized, Tensor indices)");
  m.def("nearest_code_backward(Tensor grad, Tensor features) -> Tensor");
  // Any code words. The statistics are for the backward, whose gradients have no elements where
  // they are not wanted.
  m.def(
      "soft_cross_entropy(Tensor features, Tensor codebook, Tensor logits, float temperature) -> "
      "(Tensor rate, Tensor indices, Tensor statistics)");
  m.def(
      "soft_cross_entropy_backward(Tensor grad, Tensor features, Tensor codebook, Tensor logits, "
      "Tensor indices, Tensor statistics, float temperature, bool with_features, "
      "bool with_codebook, bool with_logits) -> "
      "(Tensor grad_features, Tensor grad_codebook, Tensor grad_logits)");

  // entropy: integer tables for range coders
  m.def("pmf_to_cdf(Tensor pmf, int precision) -> Tensor");

  // integer: what a bitstream depends on, exact on every machine. (sum * multiplier) >> shift
  m.def(
      "integer_linear(Tensor x, Tensor weight, Tensor? bias, Tensor multiplier, int shift, "
      "int output_bits) -> Tensor");
  m.def("integer_rms_norm(Tensor x, int gain, int epsilon) -> Tensor");
  m.def("integer_rotate_normalize(Tensor x, Tensor rotations) -> Tensor");
  m.def(
      "integer_attention(Tensor query, Tensor key, Tensor value, Tensor visible, "
      "Tensor temperature, int gain) -> Tensor");
  m.def("integer_gate(Tensor x, Tensor table, int shift) -> Tensor");
  m.def(
      "integer_frequencies(Tensor logits, int fraction_bits, int group_size, Tensor? group) -> "
      "Tensor");

  // tokens: which ones of a cached block to compute anew; indices are int64
  m.def("select_tokens(Tensor score, int k, int groups) -> Tensor");
  m.def("token_scores(Tensor x, Tensor? reference) -> Tensor");

  // forecast: history and coefficients are those of all tensors, one after the other
  m.def(
      "predict_add(Tensor[] bases, Tensor[] history, float[] coefficients, float[] offsets) -> "
      "Tensor[]");
}
