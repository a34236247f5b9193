// SPDX-License-Identifier: Apache-2.0
#include "bindings/checks.h"
#include "bindings/torch_compat.h"
#include "entropy/pmf_to_cdf.h"

namespace genaccel {
namespace {

void check_pmf(const Tensor& pmf, int64_t precision) {
  const char* op = "pmf_to_cdf";
  check_dim(pmf, 2, op, "pmf");
  check_contiguous(pmf, op, "pmf");
  STD_TORCH_CHECK(precision >= 1 && precision <= entropy::kMaxPrecision, op,
                  ": precision must be in [1, ", entropy::kMaxPrecision, "], got ", precision);
  STD_TORCH_CHECK(pmf.size(1) >= 1 && pmf.size(1) <= (int64_t{1} << precision), op,
                  ": pmf must have 1 to 2^precision symbols, got ", pmf.size(1));
}

Tensor new_cdf(const Tensor& pmf) {
  return torch::stable::new_empty(pmf, {pmf.size(0), pmf.size(1) + 1}, ScalarType::Int);
}

Tensor pmf_to_cdf_on_cpu(const Tensor& pmf, int64_t precision) {
  check_pmf(pmf, precision);
  Tensor cdf = new_cdf(pmf);
  dispatch_float_or_double(pmf, "pmf_to_cdf", [&](auto zero) {
    using T = decltype(zero);
    const T* in = pmf.const_data_ptr<T>();
    int32_t* out = cdf.mutable_data_ptr<int32_t>();
    const int64_t symbols = pmf.size(1);
    torch::stable::parallel_for(0, pmf.size(0), 1, [=](int64_t begin, int64_t end) {
      entropy::pmf_to_cdf_cpu<T>(in, out, begin, end, symbols, static_cast<int>(precision));
    });
  });
  return cdf;
}

#if defined(GENACCEL_WITH_CUDA)
Tensor pmf_to_cdf_on_cuda(const Tensor& pmf, int64_t precision) {
  check_pmf(pmf, precision);
  const DeviceGuard guard(pmf.get_device_index());
  Tensor cdf = new_cdf(pmf);
  Tensor remainders = torch::stable::new_empty(pmf, {pmf.size(0), pmf.size(1)}, ScalarType::Long);
  dispatch_float_or_double(pmf, "pmf_to_cdf", [&](auto zero) {
    using T = decltype(zero);
    raise_if(entropy::pmf_to_cdf_cuda<T>(
                 pmf.const_data_ptr<T>(), cdf.mutable_data_ptr<int32_t>(),
                 reinterpret_cast<uint64_t*>(remainders.mutable_data_ptr<int64_t>()), pmf.size(0),
                 pmf.size(1), static_cast<int>(precision), current_stream(pmf)),
             "pmf_to_cdf");
  });
  return cdf;
}
#endif

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(genaccel, CPU, m) { m.impl("pmf_to_cdf", TORCH_BOX(&pmf_to_cdf_on_cpu)); }

#if defined(GENACCEL_WITH_CUDA)
STABLE_TORCH_LIBRARY_IMPL(genaccel, CUDA, m) {
  m.impl("pmf_to_cdf", TORCH_BOX(&pmf_to_cdf_on_cuda));
}
#endif

}  // namespace genaccel
