// SPDX-License-Identifier: Apache-2.0
// Every op of the library.
#include "bindings/torch_compat.h"

STABLE_TORCH_LIBRARY(genaccel, m) {
  // quantize: unit-norm code words; indices are int64
  m.def("nearest_code(Tensor features, Tensor codebook) -> (Tensor quantized, Tensor indices)");
  m.def("nearest_code_backward(Tensor grad, Tensor features) -> Tensor");

  // entropy: integer tables for range coders
  m.def("pmf_to_cdf(Tensor pmf, int precision) -> Tensor");
}
