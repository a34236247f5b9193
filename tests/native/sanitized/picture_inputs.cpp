// SPDX-License-Identifier: Apache-2.0
// The CPU code of the ops on pictures: odd sizes, extreme values, rows in two parts as threads get
// them, both boundaries and both memory formats.
#include <algorithm>

#include "frequency/frequency_update.h"
#include "frequency/low_pass.h"
#include "inputs.h"

namespace hostile {
namespace {

using namespace genaccel;

template <typename A>
frequency::Taps<A> any_taps(Random& random) {
  Array<A> numbers(random, 2 * frequency::kRank * frequency::kReach);
  numbers.fill(random);
  frequency::Taps<A> taps;
  std::copy_n(numbers.data(), frequency::kRank * frequency::kReach, &taps.column[0][0]);
  std::copy_n(numbers.data() + frequency::kRank * frequency::kReach,
              frequency::kRank * frequency::kReach, &taps.row[0][0]);
  return taps;
}

template <typename T>
void low_pass(Random& random) {
  const int64_t planes = random.between(1, 2), height = some(random, 12, 90);
  const int64_t width = some(random, 40, 1100);
  Array<T> x(random, planes * height * width), out(random, x.size());
  floats(random, x);
  const frequency::LowPass<T> filter = {x.data(),
                                        out.data(),
                                        planes,
                                        height,
                                        width,
                                        random.one_in(2),
                                        any_taps<Accumulate<T>>(random)};
  in_parts(random, planes * height,
           [&](int64_t b, int64_t e) { frequency::low_pass_cpu(filter, b, e); });
}

template <typename T>
void frequency_update(Random& random) {
  using A = Accumulate<T>;
  const int64_t frames = random.between(1, 2), height = some(random, 12, 90);
  const int64_t width = some(random, 40, 1100), places = frames * height * width;
  Array<T> faithful(random, 3 * places), sharp(random, 3 * places), out(random, 3 * places);
  Array<A> weight(random, places);
  if constexpr (sizeof(T) == 1) {
    faithful.fill(random), sharp.fill(random);
  } else {
    floats(random, faithful), floats(random, sharp);
  }
  weight.fill(random);
  const frequency::FrequencyUpdate<T> update = {faithful.data(),
                                                sharp.data(),
                                                random.one_in(2) ? nullptr : weight.data(),
                                                out.data(),
                                                frames,
                                                height,
                                                width,
                                                random.one_in(2),
                                                random.one_in(2),
                                                random.value<A>(),
                                                any_taps<A>(random)};
  in_parts(random, frames * height,
           [&](int64_t b, int64_t e) { frequency::frequency_update_cpu(update, b, e); });
}

}  // namespace

void low_pass_input(Random& random) {
  random.pick<void (*)(Random&)>(
      {low_pass<float>, low_pass<double>, low_pass<Half>, low_pass<BFloat16>})(random);
}

void frequency_update_input(Random& random) {
  random.pick<void (*)(Random&)>({frequency_update<uint8_t>, frequency_update<float>,
                                  frequency_update<double>, frequency_update<Half>,
                                  frequency_update<BFloat16>})(random);
}

}  // namespace hostile
