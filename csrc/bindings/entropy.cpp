// SPDX-License-Identifier: Apache-2.0
// Integer tables for range coders.
#include "bindings/checks.h"
#include "bindings/launch.h"
#include "entropy/pmf_to_cdf.h"

namespace genaccel {
namespace {

Tensor pmf_to_cdf(const Tensor& pmf, int64_t precision) {
  const char* op = "pmf_to_cdf";
  check_shape(pmf, {kAnySize, kAnySize}, op, "pmf");
  check_range(precision, 1, entropy::kMaxPrecision, op, "precision");
  check_range(pmf.size(1), 1, int64_t{1} << precision, op, "symbols");
  const int64_t rows = pmf.size(0);
  const int64_t symbols = pmf.size(1);
  const int bits = static_cast<int>(precision);
  Tensor cdf = torch::stable::new_empty(pmf, {rows, symbols + 1}, ScalarType::Int);
  dispatch_float_or_double(pmf, op, [&](auto zero) {
    using T = decltype(zero);
    const T* in = elements<T>(pmf);
    int32_t* out = mutable_elements<int32_t>(cdf);
    launch(
        op, pmf, rows, 1,
        [=](int64_t begin, int64_t end) {
          entropy::pmf_to_cdf_cpu<T>(in, out, begin, end, symbols, bits);
        },
        [&](auto stream) {
          Tensor remainders = torch::stable::new_empty(pmf, {rows, symbols}, ScalarType::Long);
          return entropy::pmf_to_cdf_cuda<T>(in, out, mutable_elements<uint64_t>(remainders), rows,
                                             symbols, bits, stream);
        });
  });
  return cdf;
}

const Op kOps[] = {
    {"pmf_to_cdf(Tensor pmf, int precision) -> Tensor", TORCH_BOX(&pmf_to_cdf)},
};

}  // namespace

GENACCEL_REGISTER(kOps)

}  // namespace genaccel
