// SPDX-License-Identifier: Apache-2.0
#include <optional>

#include "bindings/checks.h"
#include "bindings/torch_compat.h"
#include "integer/integer_attention.h"
#include "integer/integer_frequencies.h"
#include "integer/integer_gate.h"
#include "integer/integer_linear.h"
#include "integer/integer_rms_norm.h"
#include "integer/integer_rotate_normalize.h"

namespace genaccel {
namespace {

constexpr int64_t kElementsPerTask = 32768;  // as torch does: a task is some 10 microseconds
constexpr int64_t kProductsPerTask = 1 << 20;

int64_t rows_per_task(int64_t elements) { return 1 + kElementsPerTask / (elements + 1); }

void check_type(const Tensor& tensor, ScalarType type, const char* op, const char* name) {
  STD_TORCH_CHECK(tensor.scalar_type() == type, op, ": ", name, " has another dtype");
  check_contiguous(tensor, op, name);
}

void check_place(const Tensor& tensor, const Tensor& other, const char* op, const char* name) {
  STD_TORCH_CHECK(
      tensor.is_cuda() == other.is_cuda() && tensor.get_device_index() == other.get_device_index(),
      op, ": ", name, " must be on the device of the first argument");
}

void check_range(int64_t value, int64_t lowest, int64_t highest, const char* op, const char* name) {
  STD_TORCH_CHECK(value >= lowest && value <= highest, op, ": ", name, " must be in [", lowest,
                  ", ", highest, "], got ", value);
}

// A vector of parameters.
template <typename T>
const T* checked_vector(const Tensor& tensor, ScalarType type, int64_t size, const Tensor& other,
                        const char* op, const char* name) {
  check_dim(tensor, 1, op, name);
  check_size(tensor, 0, size, op, name);
  check_type(tensor, type, op, name);
  check_place(tensor, other, op, name);
  return elements<T>(tensor);
}

// Calls f(T{}, scalar type) for an output of so many bits.
template <typename F>
Tensor dispatch_output(int64_t bits, const F& f) {
  switch (bits) {
    case 8:
      return f(int8_t{}, ScalarType::Char);
    case 16:
      return f(int16_t{}, ScalarType::Short);
    default:
      STD_TORCH_CHECK(bits == 32, "integer_linear: output_bits must be 8, 16 or 32, got ", bits);
      return f(int32_t{}, ScalarType::Int);
  }
}

// Checks, allocates, and calls launch(problem, rows).
template <typename Launch>
Tensor integer_linear(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                      const Tensor& multiplier, int64_t shift, int64_t output_bits,
                      const Launch& launch) {
  const char* op = "integer_linear";
  check_dim(x, 2, op, "x");
  check_type(x, ScalarType::Char, op, "x");
  check_dim(weight, 2, op, "weight");
  check_type(weight, ScalarType::Char, op, "weight");
  check_size(weight, 1, x.size(1), op, "weight");
  check_place(weight, x, op, "weight");
  check_range(x.size(1), 1, integer::kMaxInputs, op, "inputs");
  check_range(shift, integer::kMinShift, integer::kMaxShift, op, "shift");
  return dispatch_output(output_bits, [&](auto zero, ScalarType type) {
    using T = decltype(zero);
    const int64_t outputs = weight.size(0);
    Tensor result = torch::stable::new_empty(x, {x.size(0), outputs}, type);
    const int32_t* biases =
        bias.has_value() ? checked_vector<int32_t>(*bias, ScalarType::Int, outputs, x, op, "bias")
                         : nullptr;
    launch(
        integer::Linear<T>{
            elements<int8_t>(x), elements<int8_t>(weight), biases,
            checked_vector<int32_t>(multiplier, ScalarType::Int, outputs, x, op, "multiplier"),
            mutable_elements<T>(result), x.size(1), outputs, static_cast<int>(shift)},
        x.size(0));
    return result;
  });
}

template <typename Launch>
Tensor integer_rms_norm(const Tensor& x, int64_t gain, int64_t epsilon, const Launch& launch) {
  const char* op = "integer_rms_norm";
  check_dim(x, 2, op, "x");
  check_type(x, ScalarType::Int, op, "x");
  check_range(x.size(1), 1, fixed_point::kMaxChannels, op, "channels");
  check_range(gain, 1, fixed_point::kMaxGain, op, "gain");
  check_range(epsilon, 0, (int64_t{1} << 62) - 1, op, "epsilon");
  Tensor result = torch::stable::new_empty(x, {x.size(0), x.size(1)}, ScalarType::Char);
  launch(integer::RmsNorm{elements<int32_t>(x), mutable_elements<int8_t>(result), x.size(1),
                          static_cast<uint32_t>(gain), static_cast<uint64_t>(epsilon)},
         x.size(0));
  return result;
}

template <typename Launch>
Tensor integer_rotate_normalize(const Tensor& x, const Tensor& rotations, const Launch& launch) {
  const char* op = "integer_rotate_normalize";
  check_dim(x, 4, op, "x");
  check_type(x, ScalarType::Short, op, "x");
  check_range(x.size(3), 2, fixed_point::kMaxChannels, op, "channels");
  STD_TORCH_CHECK(x.size(3) % 2 == 0, op, ": channels must be even, got ", x.size(3));
  check_dim(rotations, 3, op, "rotations");
  check_type(rotations, ScalarType::Short, op, "rotations");
  check_size(rotations, 0, x.size(1), op, "rotations");
  check_size(rotations, 1, x.size(3) / 2, op, "rotations");
  check_size(rotations, 2, 2, op, "rotations");
  check_place(rotations, x, op, "rotations");
  Tensor result =
      torch::stable::new_empty(x, {x.size(0), x.size(1), x.size(2), x.size(3)}, ScalarType::Char);
  launch(
      integer::RotateNormalize{elements<int16_t>(x), elements<int16_t>(rotations),
                               mutable_elements<int8_t>(result), x.size(1), x.size(2), x.size(3)},
      x.size(0) * x.size(1));
  return result;
}

template <typename Launch>
Tensor integer_attention(const Tensor& query, const Tensor& key, const Tensor& value,
                         const Tensor& visible, const Tensor& temperature, int64_t gain,
                         const Launch& launch) {
  const char* op = "integer_attention";
  check_dim(query, 4, op, "query");
  check_type(query, ScalarType::Char, op, "query");
  const Tensor* caches[] = {&key, &value};
  for (const Tensor* cache : caches) {
    const char* name = cache == &key ? "key" : "value";
    check_dim(*cache, 4, op, name);
    check_type(*cache, ScalarType::Char, op, name);
    check_place(*cache, query, op, name);
    for (const int64_t axis : {0, 2, 3}) {
      check_size(*cache, axis, query.size(axis), op, name);
    }
    check_size(*cache, 1, key.size(1), op, name);
  }
  check_range(key.size(1), 0, integer::kMaxKeys, op, "keys");
  check_range(query.size(3), 1, integer::kMaxHeadChannels, op, "channels");
  check_range(gain, 1, integer::kMaxOutputGain, op, "gain");
  Tensor result = torch::stable::empty_like(query);
  launch(integer::Attention{elements<int8_t>(query), elements<int8_t>(key), elements<int8_t>(value),
                            checked_vector<int32_t>(visible, ScalarType::Int, query.size(1), query,
                                                    op, "visible"),
                            checked_vector<int32_t>(temperature, ScalarType::Int, query.size(2),
                                                    query, op, "temperature"),
                            mutable_elements<int8_t>(result), query.size(1), key.size(1),
                            query.size(2), query.size(3), static_cast<uint32_t>(gain)},
         query.size(0));
  return result;
}

template <typename Launch>
Tensor integer_gate(const Tensor& x, const Tensor& table, int64_t shift, const Launch& launch) {
  const char* op = "integer_gate";
  check_dim(x, 2, op, "x");
  check_type(x, ScalarType::Char, op, "x");
  STD_TORCH_CHECK(x.size(1) % 2 == 0, op, ": x must have an even number of channels, got ",
                  x.size(1));
  check_range(shift, 1, integer::kMaxGateShift, op, "shift");
  const int64_t channels = x.size(1) / 2;
  Tensor result = torch::stable::new_empty(x, {x.size(0), channels}, ScalarType::Char);
  launch(integer::Gate{elements<int8_t>(x),
                       checked_vector<int16_t>(table, ScalarType::Short, integer::kTableSize, x, op,
                                               "table"),
                       mutable_elements<int8_t>(result), channels, static_cast<int>(shift)},
         x.size(0));
  return result;
}

template <typename Launch>
Tensor integer_frequencies(const Tensor& logits, int64_t fraction_bits, int64_t group_size,
                           const std::optional<Tensor>& group, const Launch& launch) {
  const char* op = "integer_frequencies";
  check_dim(logits, 2, op, "logits");
  check_type(logits, ScalarType::Int, op, "logits");
  check_range(logits.size(1), 1, integer::kMaxSymbols, op, "symbols");
  check_range(fraction_bits, 0, integer::kMaxFractionBits, op, "fraction_bits");
  check_range(group_size, 1, logits.size(1), op, "group_size");
  STD_TORCH_CHECK(logits.size(1) % group_size == 0, op, ": group_size must divide the ",
                  logits.size(1), " symbols, got ", group_size);
  integer::Frequencies problem{
      elements<int32_t>(logits),      nullptr, nullptr, logits.size(1), group_size,
      static_cast<int>(fraction_bits)};
  if (group.has_value()) {
    problem.group =
        checked_vector<int64_t>(*group, ScalarType::Long, logits.size(0), logits, op, "group");
  }
  Tensor result =
      torch::stable::new_empty(logits, {logits.size(0), problem.entries() + 1}, ScalarType::Int);
  problem.out = mutable_elements<int32_t>(result);
  launch(problem, logits.size(0));
  return result;
}

Tensor integer_linear_on_cpu(const Tensor& x, const Tensor& weight,
                             const std::optional<Tensor>& bias, const Tensor& multiplier,
                             int64_t shift, int64_t output_bits) {
  return integer_linear(
      x, weight, bias, multiplier, shift, output_bits, [](const auto& problem, int64_t rows) {
        const int64_t products = problem.inputs * problem.outputs;
        torch::stable::parallel_for(0, rows, 2 + kProductsPerTask / (products + 1),
                                    [&problem](int64_t begin, int64_t end) {
                                      integer::integer_linear_cpu(problem, begin, end);
                                    });
      });
}

Tensor integer_rms_norm_on_cpu(const Tensor& x, int64_t gain, int64_t epsilon) {
  return integer_rms_norm(x, gain, epsilon, [](const integer::RmsNorm& problem, int64_t rows) {
    torch::stable::parallel_for(0, rows, rows_per_task(problem.channels),
                                [&problem](int64_t begin, int64_t end) {
                                  integer::integer_rms_norm_cpu(problem, begin, end);
                                });
  });
}

Tensor integer_rotate_normalize_on_cpu(const Tensor& x, const Tensor& rotations) {
  return integer_rotate_normalize(
      x, rotations, [](const integer::RotateNormalize& problem, int64_t rows) {
        torch::stable::parallel_for(0, rows, rows_per_task(problem.heads * problem.channels),
                                    [&problem](int64_t begin, int64_t end) {
                                      integer::integer_rotate_normalize_cpu(problem, begin, end);
                                    });
      });
}

Tensor integer_attention_on_cpu(const Tensor& query, const Tensor& key, const Tensor& value,
                                const Tensor& visible, const Tensor& temperature, int64_t gain) {
  return integer_attention(
      query, key, value, visible, temperature, gain,
      [](const integer::Attention& problem, int64_t batch) {
        const int64_t products = problem.tokens * problem.keys * problem.channels;
        torch::stable::parallel_for(0, batch * problem.heads, 1 + kProductsPerTask / (products + 1),
                                    [&problem](int64_t begin, int64_t end) {
                                      integer::integer_attention_cpu(problem, begin, end);
                                    });
      });
}

Tensor integer_gate_on_cpu(const Tensor& x, const Tensor& table, int64_t shift) {
  return integer_gate(x, table, shift, [](const integer::Gate& problem, int64_t rows) {
    torch::stable::parallel_for(
        0, rows, rows_per_task(problem.channels),
        [&problem](int64_t begin, int64_t end) { integer::integer_gate_cpu(problem, begin, end); });
  });
}

Tensor integer_frequencies_on_cpu(const Tensor& logits, int64_t fraction_bits, int64_t group_size,
                                  const std::optional<Tensor>& group) {
  return integer_frequencies(
      logits, fraction_bits, group_size, group,
      [](const integer::Frequencies& problem, int64_t rows) {
        const int64_t groups = problem.symbols / problem.group_size;
        for (int64_t row = 0; problem.group != nullptr && row < rows; ++row) {
          check_range(problem.group[row], 0, groups - 1, "integer_frequencies", "group");
        }
        torch::stable::parallel_for(0, rows, rows_per_task(problem.symbols),
                                    [&problem](int64_t begin, int64_t end) {
                                      integer::integer_frequencies_cpu(problem, begin, end);
                                    });
      });
}

#if defined(GENACCEL_WITH_CUDA)
// Each launcher on the tensor's device and stream.
Tensor integer_linear_on_cuda(const Tensor& x, const Tensor& weight,
                              const std::optional<Tensor>& bias, const Tensor& multiplier,
                              int64_t shift, int64_t output_bits) {
  const DeviceGuard guard(x.get_device_index());
  return integer_linear(
      x, weight, bias, multiplier, shift, output_bits, [&x](const auto& problem, int64_t rows) {
        raise_if(integer::integer_linear_cuda(problem, rows, current_stream(x)), "integer_linear");
      });
}

Tensor integer_rms_norm_on_cuda(const Tensor& x, int64_t gain, int64_t epsilon) {
  const DeviceGuard guard(x.get_device_index());
  return integer_rms_norm(x, gain, epsilon, [&x](const auto& problem, int64_t rows) {
    raise_if(integer::integer_rms_norm_cuda(problem, rows, current_stream(x)), "integer_rms_norm");
  });
}

Tensor integer_rotate_normalize_on_cuda(const Tensor& x, const Tensor& rotations) {
  const DeviceGuard guard(x.get_device_index());
  return integer_rotate_normalize(x, rotations, [&x](const auto& problem, int64_t rows) {
    raise_if(integer::integer_rotate_normalize_cuda(problem, rows, current_stream(x)),
             "integer_rotate_normalize");
  });
}

Tensor integer_attention_on_cuda(const Tensor& query, const Tensor& key, const Tensor& value,
                                 const Tensor& visible, const Tensor& temperature, int64_t gain) {
  const DeviceGuard guard(query.get_device_index());
  return integer_attention(
      query, key, value, visible, temperature, gain, [&query](const auto& problem, int64_t batch) {
        raise_if(integer::integer_attention_cuda(problem, batch, current_stream(query)),
                 "integer_attention");
      });
}

Tensor integer_gate_on_cuda(const Tensor& x, const Tensor& table, int64_t shift) {
  const DeviceGuard guard(x.get_device_index());
  return integer_gate(x, table, shift, [&x](const auto& problem, int64_t rows) {
    raise_if(integer::integer_gate_cuda(problem, rows, current_stream(x)), "integer_gate");
  });
}

Tensor integer_frequencies_on_cuda(const Tensor& logits, int64_t fraction_bits, int64_t group_size,
                                   const std::optional<Tensor>& group) {
  const DeviceGuard guard(logits.get_device_index());
  return integer_frequencies(
      logits, fraction_bits, group_size, group, [&logits](const auto& problem, int64_t rows) {
        raise_if(integer::integer_frequencies_cuda(problem, rows, current_stream(logits)),
                 "integer_frequencies");
      });
}
#endif

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(genaccel, CPU, m) {
  m.impl("integer_linear", TORCH_BOX(&integer_linear_on_cpu));
  m.impl("integer_rms_norm", TORCH_BOX(&integer_rms_norm_on_cpu));
  m.impl("integer_rotate_normalize", TORCH_BOX(&integer_rotate_normalize_on_cpu));
  m.impl("integer_attention", TORCH_BOX(&integer_attention_on_cpu));
  m.impl("integer_gate", TORCH_BOX(&integer_gate_on_cpu));
  m.impl("integer_frequencies", TORCH_BOX(&integer_frequencies_on_cpu));
}

#if defined(GENACCEL_WITH_CUDA)
STABLE_TORCH_LIBRARY_IMPL(genaccel, CUDA, m) {
  m.impl("integer_linear", TORCH_BOX(&integer_linear_on_cuda));
  m.impl("integer_rms_norm", TORCH_BOX(&integer_rms_norm_on_cuda));
  m.impl("integer_rotate_normalize", TORCH_BOX(&integer_rotate_normalize_on_cuda));
  m.impl("integer_attention", TORCH_BOX(&integer_attention_on_cuda));
  m.impl("integer_gate", TORCH_BOX(&integer_gate_on_cuda));
  m.impl("integer_frequencies", TORCH_BOX(&integer_frequencies_on_cuda));
}
#endif

}  // namespace genaccel
