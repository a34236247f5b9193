// SPDX-License-Identifier: Apache-2.0
// The kernels of spatial frequencies against the CPU's code: sizes of less than a tile and of
// several, both boundaries and both memory formats. Prints a line for each difference.
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "frequency/frequency_update.h"
#include "frequency/low_pass.h"

namespace {

using namespace genaccel;
using namespace genaccel::frequency;

std::mt19937 random_bits(1);

template <typename T>
std::vector<T> samples(int64_t count) {
  std::vector<T> values(static_cast<size_t>(count));
  for (T& value : values) {
    value = sample_of<T>(static_cast<Accumulate<T>>(random_bits() % 256) * kWhite<T> / 255);
  }
  return values;
}

template <typename A>
Taps<A> taps() {
  Taps<A> made;
  for (int i = 0; i < kRank * kReach; ++i) {
    made.column[0][i] = static_cast<A>(random_bits() % 100) / 1000;
    made.row[0][i] = static_cast<A>(random_bits() % 100) / 1000;
  }
  return made;
}

template <typename T>
void compare(const char* name, int64_t width, const std::vector<T>& a, const std::vector<T>& b) {
  // A byte that lies between two levels; and bfloat16, of which these numbers have 8 bits.
  const double allowed = sizeof(T) == 1 ? 1 : sizeof(T) == 2 ? 0.05 : 1e-4;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!(std::fabs(number_of(a[i]) - number_of(b[i])) <= allowed)) {
      std::printf("%s: width %d: element %d of %d\n", name, static_cast<int>(width),
                  static_cast<int>(i), static_cast<int>(a.size()));
      return;
    }
  }
}

template <typename T>
void updates() {
  using A = Accumulate<T>;
  for (const auto& [height, width] : {std::pair{1, 1}, {5, 37}, {40, 33}}) {
    for (int form = 0; form < 8; ++form) {
      const int64_t places = 2 * height * width;
      const std::vector<T> faithful = samples<T>(3 * places), sharp = samples<T>(3 * places);
      std::vector<A> weight(static_cast<size_t>(places), A(0.25));
      std::vector<T> kernel(faithful.size()), cpu(faithful.size());
      FrequencyUpdate<T> update = {faithful.data(),
                                   sharp.data(),
                                   form & 4 ? weight.data() : nullptr,
                                   kernel.data(),
                                   2,
                                   height,
                                   width,
                                   (form & 1) != 0,
                                   (form & 2) != 0,
                                   A(0.5),
                                   taps<A>()};
      frequency_update_cuda(update, nullptr);
      update.out = cpu.data();
      frequency_update_cpu(update, 0, 2 * height);
      compare("frequency_update", width, kernel, cpu);
    }
  }
}

template <typename T>
void low_passes() {
  for (const auto& [height, width] : {std::pair{1, 1}, {3, 50}, {41, 33}}) {
    for (const bool periodic : {false, true}) {
      const std::vector<T> x = samples<T>(2 * height * width);
      std::vector<T> kernel(x.size()), cpu(x.size());
      LowPass<T> filter = {x.data(), kernel.data(),        2, height, width,
                           periodic, taps<Accumulate<T>>()};
      low_pass_cuda(filter, nullptr);
      filter.out = cpu.data();
      low_pass_cpu(filter, 0, 2 * height);
      compare("low_pass", width, kernel, cpu);
    }
  }
}

}  // namespace

int main() {
  updates<uint8_t>();
  updates<float>();
  updates<double>();
  updates<BFloat16>();
  low_passes<float>();
  low_passes<double>();
}
