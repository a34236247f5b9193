// SPDX-License-Identifier: Apache-2.0
// What a bitstream depends on, exact on every machine. (sum * multiplier) >> shift
#include <optional>

#include "bindings/checks.h"
#include "bindings/launch.h"
#include "integer/integer_attention.h"
#include "integer/integer_frequencies.h"
#include "integer/integer_gate.h"
#include "integer/integer_linear.h"
#include "integer/integer_rms_norm.h"
#include "integer/integer_rotate_normalize.h"

namespace genaccel {
namespace {

using namespace integer;  // only its ops are bound here

constexpr int64_t kProductsPerTask = 1 << 20;

int64_t rows_per_task_of_products(int64_t products) {
  return 1 + kProductsPerTask / (products + 1);
}

// Calls f(T{}) for an output of so many bits.
template <typename F>
Tensor dispatch_output(int64_t bits, const char* op, const F& f) {
  switch (bits) {
    case 8:
      return f(int8_t{});
    case 16:
      return f(int16_t{});
    default:
      STD_TORCH_CHECK(bits == 32, op, ": output_bits must be 8, 16 or 32, got ", bits);
      return f(int32_t{});
  }
}

Tensor integer_linear(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                      const Tensor& multiplier, int64_t shift, int64_t output_bits) {
  const char* op = "integer_linear";
  const auto* in = checked<int8_t>(x, {kAnySize, kAnySize}, x, op, "x");
  const int64_t rows = x.size(0);
  const int64_t inputs = x.size(1);
  const auto* weights = checked<int8_t>(weight, {kAnySize, inputs}, x, op, "weight");
  const int64_t outputs = weight.size(0);
  const auto* biases =
      bias.has_value() ? checked<int32_t>(*bias, {outputs}, x, op, "bias") : nullptr;
  const auto* multipliers = checked<int32_t>(multiplier, {outputs}, x, op, "multiplier");
  check_range(inputs, 1, kMaxInputs, op, "inputs");
  check_range(shift, kMinShift, kMaxShift, op, "shift");
  return dispatch_output(output_bits, op, [&](auto zero) {
    using T = decltype(zero);
    Tensor out = torch::stable::new_empty(x, {rows, outputs}, kTypeOf<T>);
    const Linear<T> problem{in,
                            weights,
                            biases,
                            multipliers,
                            mutable_elements<T>(out),
                            inputs,
                            outputs,
                            static_cast<int>(shift)};
    launch(
        op, x, rows, 1 + rows_per_task_of_products(inputs * outputs),
        [&](int64_t begin, int64_t end) { integer_linear_cpu(problem, begin, end); },
        [&](auto stream) { return integer_linear_cuda(problem, rows, stream); });
    return out;
  });
}

Tensor integer_rms_norm(const Tensor& x, int64_t gain, int64_t epsilon) {
  const char* op = "integer_rms_norm";
  const auto* in = checked<int32_t>(x, {kAnySize, kAnySize}, x, op, "x");
  const int64_t rows = x.size(0);
  const int64_t channels = x.size(1);
  check_range(channels, 1, fixed_point::kMaxChannels, op, "channels");
  check_range(gain, 1, fixed_point::kMaxGain, op, "gain");
  check_range(epsilon, 0, (int64_t{1} << 62) - 1, op, "epsilon");
  Tensor out = torch::stable::new_empty(x, {rows, channels}, ScalarType::Char);
  const RmsNorm problem{in, mutable_elements<int8_t>(out), channels, static_cast<uint32_t>(gain),
                        static_cast<uint64_t>(epsilon)};
  launch(
      op, x, rows, rows_per_task(channels),
      [&](int64_t begin, int64_t end) { integer_rms_norm_cpu(problem, begin, end); },
      [&](auto stream) { return integer_rms_norm_cuda(problem, rows, stream); });
  return out;
}

Tensor integer_rotate_normalize(const Tensor& x, const Tensor& rotations) {
  const char* op = "integer_rotate_normalize";
  const auto* in = checked<int16_t>(x, {kAnySize, kAnySize, kAnySize, kAnySize}, x, op, "x");
  const int64_t channels = x.size(3);
  check_range(channels, 2, fixed_point::kMaxChannels, op, "channels");
  STD_TORCH_CHECK(channels % 2 == 0, op, ": channels must be even, got ", channels);
  const auto* angles =
      checked<int16_t>(rotations, {x.size(1), channels / 2, 2}, x, op, "rotations");
  Tensor out =
      torch::stable::new_empty(x, {x.size(0), x.size(1), x.size(2), channels}, ScalarType::Char);
  if (out.numel() == 0) {
    return out;  // of any number of rows, which may not even fit 64 bits
  }
  const int64_t rows = x.size(0) * x.size(1);
  const RotateNormalize problem{in,        angles,    mutable_elements<int8_t>(out),
                                x.size(1), x.size(2), channels};
  launch(
      op, x, rows, rows_per_task(problem.heads * channels),
      [&](int64_t begin, int64_t end) { integer_rotate_normalize_cpu(problem, begin, end); },
      [&](auto stream) { return integer_rotate_normalize_cuda(problem, rows, stream); });
  return out;
}

Tensor integer_attention(const Tensor& query, const Tensor& key, const Tensor& value,
                         const Tensor& visible, const Tensor& temperature, int64_t gain) {
  const char* op = "integer_attention";
  const auto* queries =
      checked<int8_t>(query, {kAnySize, kAnySize, kAnySize, kAnySize}, query, op, "query");
  const int64_t batch = query.size(0);
  const int64_t tokens = query.size(1);
  const int64_t heads = query.size(2);
  const int64_t channels = query.size(3);
  const auto* keys = checked<int8_t>(key, {batch, kAnySize, heads, channels}, query, op, "key");
  const auto* values =
      checked<int8_t>(value, {batch, key.size(1), heads, channels}, query, op, "value");
  const auto* counts = checked<int32_t>(visible, {tokens}, query, op, "visible");
  const auto* temperatures = checked<int32_t>(temperature, {heads}, query, op, "temperature");
  check_range(key.size(1), 0, kMaxKeys, op, "keys");
  check_range(channels, 1, kMaxHeadChannels, op, "channels");
  check_range(gain, 1, kMaxOutputGain, op, "gain");
  Tensor out = torch::stable::empty_like(query);
  if (out.numel() == 0) {
    return out;
  }
  const Attention problem{queries,
                          keys,
                          values,
                          counts,
                          temperatures,
                          mutable_elements<int8_t>(out),
                          tokens,
                          key.size(1),
                          heads,
                          channels,
                          static_cast<uint32_t>(gain)};
  launch(
      op, query, batch * heads, rows_per_task_of_products(tokens * problem.keys * channels),
      [&](int64_t begin, int64_t end) { integer_attention_cpu(problem, begin, end); },
      [&](auto stream) { return integer_attention_cuda(problem, batch, stream); });
  return out;
}

Tensor integer_gate(const Tensor& x, const Tensor& table, int64_t shift) {
  const char* op = "integer_gate";
  const auto* in = checked<int8_t>(x, {kAnySize, kAnySize}, x, op, "x");
  const int64_t rows = x.size(0);
  const int64_t channels = x.size(1) / 2;
  STD_TORCH_CHECK(x.size(1) % 2 == 0, op, ": x must have an even number of channels, got ",
                  x.size(1));
  const auto* activations = checked<int16_t>(table, {kTableSize}, x, op, "table");
  check_range(shift, 1, kMaxGateShift, op, "shift");
  Tensor out = torch::stable::new_empty(x, {rows, channels}, ScalarType::Char);
  if (out.numel() == 0) {
    return out;
  }
  const Gate problem{in, activations, mutable_elements<int8_t>(out), channels,
                     static_cast<int>(shift)};
  launch(
      op, x, rows, rows_per_task(channels),
      [&](int64_t begin, int64_t end) { integer_gate_cpu(problem, begin, end); },
      [&](auto stream) { return integer_gate_cuda(problem, rows, stream); });
  return out;
}

Tensor integer_frequencies(const Tensor& logits, int64_t fraction_bits, int64_t group_size,
                           const std::optional<Tensor>& group) {
  const char* op = "integer_frequencies";
  const auto* in = checked<int32_t>(logits, {kAnySize, kAnySize}, logits, op, "logits");
  const int64_t rows = logits.size(0);
  const int64_t symbols = logits.size(1);
  check_range(symbols, 1, kMaxSymbols, op, "symbols");
  check_range(fraction_bits, 0, kMaxFractionBits, op, "fraction_bits");
  check_range(group_size, 1, symbols, op, "group_size");
  STD_TORCH_CHECK(symbols % group_size == 0, op, ": group_size must divide the ", symbols,
                  " symbols, got ", group_size);
  const auto* chosen =
      group.has_value() ? checked<int64_t>(*group, {rows}, logits, op, "group") : nullptr;
  for (int64_t row = 0; chosen != nullptr && !logits.is_cuda() && row < rows; ++row) {
    check_range(chosen[row], 0, symbols / group_size - 1, op, "group");
  }
  Frequencies problem{in, chosen, nullptr, symbols, group_size, static_cast<int>(fraction_bits)};
  Tensor out = torch::stable::new_empty(logits, {rows, problem.entries() + 1}, ScalarType::Int);
  problem.out = mutable_elements<int32_t>(out);
  launch(
      op, logits, rows, rows_per_task(symbols),
      [&](int64_t begin, int64_t end) { integer_frequencies_cpu(problem, begin, end); },
      [&](auto stream) { return integer_frequencies_cuda(problem, rows, stream); });
  return out;
}

const Op kOps[] = {
    {"integer_linear(Tensor x, Tensor weight, Tensor? bias, Tensor multiplier, int shift, "
     "int output_bits) -> Tensor",
     TORCH_BOX(&integer_linear)},
    {"integer_rms_norm(Tensor x, int gain, int epsilon) -> Tensor", TORCH_BOX(&integer_rms_norm)},
    {"integer_rotate_normalize(Tensor x, Tensor rotations) -> Tensor",
     TORCH_BOX(&integer_rotate_normalize)},
    {"integer_attention(Tensor query, Tensor key, Tensor value, Tensor visible, "
     "Tensor temperature, int gain) -> Tensor",
     TORCH_BOX(&integer_attention)},
    {"integer_gate(Tensor x, Tensor table, int shift) -> Tensor", TORCH_BOX(&integer_gate)},
    {"integer_frequencies(Tensor logits, int fraction_bits, int group_size, Tensor? group) -> "
     "Tensor",
     TORCH_BOX(&integer_frequencies)},
};

}  // namespace

GENACCEL_REGISTER(kOps)

}  // namespace genaccel
