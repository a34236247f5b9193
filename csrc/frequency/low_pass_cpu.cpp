// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <memory>

#include "frequency/filter_cpu_shared.h"
#include "frequency/low_pass.h"

namespace genaccel::frequency {
namespace {

template <typename T>
struct LowPassRows {
  using A = Accumulate<T>;

  template <typename Isa>
  GENACCEL_HOST_DEVICE static void run(const LowPass<T>* filter, FilterMemory<A>* memory,
                                       int64_t plane, int64_t first_row, int64_t end_row,
                                       int64_t first_column) {
    constexpr int lanes = simd::kLanes<T>;
    const LowPass<T>& p = *filter;
    const int64_t count = std::min<int64_t>(kColumns, p.width - first_column);
    const int64_t before = first_row - kRadius;
    A low[kColumns];
    for (int64_t row = before; row < end_row + kRadius; ++row) {
      const T* from = p.x + (plane * p.height + line_of(row, p.height, p.periodic)) * p.width;
      A* to = memory->slot(row);
      for (int64_t i = 0; i < count + 2 * kRadius;) {
        const int64_t column = first_column - kRadius + i;
        if (column >= 0 && column + lanes <= p.width && i + lanes <= count + 2 * kRadius) {
          simd::store<Isa>(to + i, simd::load<Isa>(from + column));
          i += lanes;
        } else {
          to[i++] = to_float(from[line_of(column, p.width, p.periodic)]);
        }
      }
      if (row < first_row + kRadius) {
        continue;
      }
      const int64_t y = row - kRadius;
      filter_columns<Isa>(*memory, p.taps, y, count);
      filter_rows<Isa>(*memory, p.taps, low, count);
      T* out = p.out + (plane * p.height + y) * p.width + first_column;
      for (int64_t i = 0; i < count; i += lanes) {
        const simd::Vector<A> values = simd::load<Isa>(low + i);
        if (i + lanes <= count) {
          simd::store<Isa>(out + i, values);
        } else {
          simd::store_part<Isa>(out + i, values, count - i);
        }
      }
    }
  }
};

}  // namespace

template <typename T>
void low_pass_cpu(const LowPass<T>& filter, int64_t begin, int64_t end) {
  const auto memory = std::make_unique<FilterMemory<Accumulate<T>>>();
  while (begin < end) {
    const int64_t plane = begin / filter.height;
    const int64_t stop = std::min(end, (plane + 1) * filter.height);
    for (int64_t column = 0; column < filter.width; column += kColumns) {
      simd::run<LowPassRows<T>>(&filter, memory.get(), plane, begin - plane * filter.height,
                                stop - plane * filter.height, column);
    }
    begin = stop;
  }
}

#define GENACCEL_INSTANTIATE(T) template void low_pass_cpu<T>(const LowPass<T>&, int64_t, int64_t);
GENACCEL_INSTANTIATE(float)
GENACCEL_INSTANTIATE(double)
GENACCEL_INSTANTIATE(Half)
GENACCEL_INSTANTIATE(BFloat16)
#undef GENACCEL_INSTANTIATE

}  // namespace genaccel::frequency
