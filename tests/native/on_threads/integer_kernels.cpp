// SPDX-License-Identifier: Apache-2.0
// The integer kernels against the CPU's code, bit for bit, with rows that fill packs of 16 bytes
// and rows that do not, from aligned and other addresses. Prints a line for each difference.
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "integer/integer_gate.h"
#include "integer/integer_linear.h"
#include "integer/integer_rms_norm.h"
#include "integer/integer_rotate_normalize.h"

namespace {

using namespace genaccel::integer;

constexpr int kGuard = 32;  // elements around an array that must stay as they are
std::mt19937 random_bits(1);
int differences = 0;

// Random values; begin() is aligned to 16 bytes, and then moved by some elements.
template <typename T>
class Array {
 public:
  Array(int64_t size, int offset = 0, int shift = 0)
      : values_(static_cast<size_t>(size + 2 * kGuard)), offset_(offset) {
    for (T& value : values_) {
      value = static_cast<T>(static_cast<int32_t>(random_bits()) >> shift);
    }
  }

  T* begin() {
    const auto address = reinterpret_cast<uintptr_t>(values_.data() + 1);
    return reinterpret_cast<T*>((address + 15) / 16 * 16) + offset_;
  }

  void fill(T value) { values_.assign(values_.size(), value); }

 private:
  std::vector<T> values_;
  int offset_;
};

// Runs both sides on outputs with guards; run(out, is_kernel).
template <typename T, typename Run>
void compare(const char* name, int64_t channels, int offset, int64_t size, Run run) {
  Array<T> kernel(size), reference(size);
  kernel.fill(77);
  reference.fill(77);
  run(kernel.begin(), true);
  run(reference.begin(), false);
  for (int64_t i = -1; i < size + 8; ++i) {
    if (kernel.begin()[i] != reference.begin()[i]) {
      ++differences;
      std::printf("%s: %d channels, offset %d: element %d of %d\n", name,
                  static_cast<int>(channels), offset, static_cast<int>(i), static_cast<int>(size));
      return;
    }
  }
}

void gates() {
  constexpr int64_t rows = 7;
  Array<int16_t> table(kTableSize);
  for (const int64_t channels : {1, 8, 16, 24, 48, 131, 256, 1536}) {
    for (const int offset : {0, 1}) {
      Array<int8_t> x(rows * 2 * channels, offset);
      compare<int8_t>("gate", channels, offset, rows * channels, [&](int8_t* out, bool kernel) {
        const Gate problem = {x.begin(), table.begin(), out, channels, 14};
        kernel ? void(integer_gate_cuda(problem, rows, nullptr))
               : integer_gate_cpu(problem, 0, rows);
      });
    }
  }
}

void rms_norms() {
  constexpr int64_t rows = 9;
  for (const int64_t channels : {1, 4, 8, 33, 128, 384, 388, 4096}) {
    for (const int offset : {0, 1}) {
      for (const int shift : {0, 9, 20}) {
        Array<int32_t> x(rows * channels, offset, shift);
        const auto gain = static_cast<uint32_t>(32 * std::sqrt(static_cast<double>(channels)));
        compare<int8_t>("rms_norm", channels, offset, rows * channels,
                        [&](int8_t* out, bool kernel) {
                          const RmsNorm problem = {x.begin(), out, channels, gain,
                                                   static_cast<uint64_t>(50 * channels)};
                          kernel ? void(integer_rms_norm_cuda(problem, rows, nullptr))
                                 : integer_rms_norm_cpu(problem, 0, rows);
                        });
      }
    }
  }
}

void rotations() {
  constexpr int64_t batch = 2, tokens = 5, heads = 3;
  for (const int64_t channels : {2, 8, 10, 16, 24, 32, 48, 64, 96, 256}) {
    for (const int offset : {0, 1, 2}) {
      const int64_t size = batch * tokens * heads * channels;
      Array<int16_t> x(size, offset), turns(tokens * channels);
      for (int64_t i = 0; i < tokens * channels; ++i) {
        turns.begin()[i] = turns.begin()[i] == INT16_MIN ? 0 : turns.begin()[i];
      }
      compare<int8_t>("rotate_normalize", channels, offset, size, [&](int8_t* out, bool kernel) {
        const RotateNormalize problem = {x.begin(), turns.begin(), out, tokens, heads, channels};
        kernel ? void(integer_rotate_normalize_cuda(problem, batch * tokens, nullptr))
               : integer_rotate_normalize_cpu(problem, 0, batch * tokens);
      });
    }
  }
}

template <typename T>
void products(const char* name, int shift) {
  constexpr int64_t rows = 67;
  for (const int64_t inputs : {1, 16, 48, 80, 130, 384}) {
    for (const int64_t outputs : {3, 64, 129}) {
      for (const int offset : {0, 1}) {
        Array<int8_t> x(rows * inputs, offset), weight(outputs * inputs, offset);
        Array<int32_t> multiplier(outputs), bias(outputs, 0, 12);
        for (int64_t o = 0; o < outputs; ++o) {
          multiplier.begin()[o] &= INT32_MAX;
        }
        compare<T>(name, inputs, offset, rows * outputs, [&](T* out, bool kernel) {
          Linear<T> problem{};
          problem.x = x.begin();
          problem.weight = weight.begin();
          problem.bias = bias.begin();
          problem.multiplier = multiplier.begin();
          problem.out = out;
          problem.inputs = inputs;
          problem.outputs = outputs;
          problem.shift = shift;
          kernel ? void(integer_linear_cuda(problem, rows, nullptr))
                 : integer_linear_cpu(problem, 0, rows);
        });
      }
    }
  }
}

}  // namespace

int main() {
  gates();
  rms_norms();
  rotations();
  products<int8_t>("linear to int8", 48);
  products<int16_t>("linear to int16", 42);
  products<int32_t>("linear to int32", 34);
  return differences != 0;
}
