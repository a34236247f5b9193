// SPDX-License-Identifier: Apache-2.0
// Tiles of kColumns: luminance of both pictures goes into rings, the low-pass comes out row by row,
// and the row of the faithful picture is read once more to be changed.
#include <algorithm>
#include <memory>

#include "frequency/filter_cpu_shared.h"
#include "frequency/frequency_update.h"

namespace genaccel::frequency {
namespace {

typedef uint8_t Bytes8 __attribute__((vector_size(8)));
typedef uint8_t Bytes32 __attribute__((vector_size(32)));
typedef int32_t Ints __attribute__((vector_size(32)));

template <typename T>
struct UpdateMemory {
  using A = Accumulate<T>;
  FilterMemory<A> faithful;
  FilterMemory<A> sharp;
  A faithful_low[kColumns];
  A sharp_low[kColumns];
  A change[kColumns];
};

template <typename Isa, typename T>
GENACCEL_HOST_DEVICE simd::Vector<T> load_samples(const T* from) {
  if constexpr (sizeof(T) == 1) {
    Bytes8 bytes;
    __builtin_memcpy(&bytes, from, sizeof(bytes));
    return __builtin_convertvector(__builtin_convertvector(bytes, Ints), simd::Vector<float>);
  } else {
    return simd::load<Isa>(from);
  }
}

// As sample_of does it.
GENACCEL_HOST_DEVICE Bytes8 rounded(simd::Vector<float> values) {
  const auto bits = bit_cast<Ints>(values + 12582912.0f);
  return __builtin_convertvector(bits & 255, Bytes8);
}

template <typename Isa, typename T>
GENACCEL_HOST_DEVICE void store_samples(T* to, simd::Vector<T> values) {
  if constexpr (sizeof(T) == 1) {
    const Bytes8 bytes = rounded(values);
    __builtin_memcpy(to, &bytes, sizeof(bytes));
  } else {
    simd::store<Isa>(to, values);
  }
}

template <typename T>
struct UpdateRows {
  using A = Accumulate<T>;
  using Vector = simd::Vector<T>;
  using Update = FrequencyUpdate<T>;
  static constexpr int kLanes = simd::kLanes<T>;
  static constexpr A kRedOf1 = static_cast<A>(kRed / kWhite<T>);
  static constexpr A kGreenOf1 = static_cast<A>(kGreen / kWhite<T>);
  static constexpr A kBlueOf1 = static_cast<A>(kBlue / kWhite<T>);

  template <typename V>
  GENACCEL_HOST_DEVICE static V luminance(V red, V green, V blue) {
    return kRedOf1 * red + kGreenOf1 * green + kBlueOf1 * blue;
  }

  // Eight pixels of red, green, blue bytes; reads 28 bytes.
  GENACCEL_HOST_DEVICE static simd::Vector<float> luminance_of_bytes(const uint8_t* from) {
    Bytes32 bytes;
    __builtin_memcpy(&bytes, from, 16);
    __builtin_memcpy(reinterpret_cast<uint8_t*>(&bytes) + 16, from + 12, 16);
    // A pixel to each 32 bits; the fourth byte is anything.
    const Bytes32 order = {0,  1,  2,  0,  3,  4,  5,  0,  6,  7,  8,  0,  9,  10, 11, 0,
                           16, 17, 18, 16, 19, 20, 21, 16, 22, 23, 24, 16, 25, 26, 27, 16};
    const auto pixels = bit_cast<Ints>(__builtin_shuffle(bytes, order));
    using Floats = simd::Vector<float>;
    return luminance(__builtin_convertvector(pixels & 255, Floats),
                     __builtin_convertvector((pixels >> 8) & 255, Floats),
                     __builtin_convertvector((pixels >> 16) & 255, Floats));
  }

  // Luminance of columns [first, first + count) of a row, some of which lie beyond the edges.
  template <typename Isa>
  GENACCEL_HOST_DEVICE static void load_row(const Update& p, const T* picture, int64_t start,
                                            int64_t first, int64_t count, A* to) {
    const T* from = picture + start;
    const int64_t channel = p.channel_stride();
    for (int64_t i = 0; i < count;) {
      const int64_t column = first + i;
      const bool inside = column >= 0 && i + kLanes <= count;
      if (inside && !p.interleaved && column + kLanes <= p.width) {
        const T* at = from + column;
        const Vector values = luminance(load_samples<Isa>(at), load_samples<Isa>(at + channel),
                                        load_samples<Isa>(at + 2 * channel));
        simd::store<Isa>(to + i, values);
        i += kLanes;
        continue;
      }
      if constexpr (sizeof(T) == 1) {
        if (inside && p.interleaved && column + kLanes + 2 <= p.width) {
          simd::store<Isa>(to + i, luminance_of_bytes(from + 3 * column));
          i += kLanes;
          continue;
        }
      }
      const T* at = from + line_of(column, p.width, p.periodic) * p.column_stride();
      to[i++] = luminance<A>(number_of(at[0]), number_of(at[channel]), number_of(at[2 * channel]));
    }
  }

  // What to add to the samples of a row, from its columns 0 to count.
  template <typename Isa>
  GENACCEL_HOST_DEVICE static void find_change(const Update& p, UpdateMemory<T>& memory,
                                               int64_t row, const A* weight, int64_t count) {
    const A* faithful = memory.faithful.slot(row) + kRadius;
    const A* sharp = memory.sharp.slot(row) + kRadius;
    for (int64_t i = 0; i < count; i += kLanes) {
      const Vector high = simd::load<Isa>(faithful + i) - simd::load<Isa>(memory.faithful_low + i);
      const Vector sharp_high = simd::load<Isa>(sharp + i) - simd::load<Isa>(memory.sharp_low + i);
      Vector change = update_of(high, sharp_high, p.alpha) * static_cast<A>(kWhite<T>);
      if (weight != nullptr) {
        change *= simd::load_filled<Isa>(weight + i, count - i, A{0});
      }
      simd::store<Isa>(memory.change + i, change);
    }
  }

  template <typename Isa>
  GENACCEL_HOST_DEVICE static void add(const T* from, T* to, Vector change) {
    constexpr A white = static_cast<A>(kWhite<T>);
    store_samples<Isa>(to, clamped<Vector>(load_samples<Isa>(from) + change, white));
  }

  template <typename Isa>
  GENACCEL_HOST_DEVICE static void add_change(const Update& p, const T* from, T* to,
                                              const A* change, int64_t count) {
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
      const Vector here = simd::load<Isa>(change + i);
      if (!p.interleaved) {
        for (int64_t channel = 0; channel < 3; ++channel) {
          add<Isa>(from + channel * p.channel_stride() + i, to + channel * p.channel_stride() + i,
                   here);
        }
        continue;
      }
      // The samples of kLanes pixels are 3 vectors, whatever their channels.
      for (int part = 0; part < 3; ++part) {
        Vector of_samples;
        for (int lane = 0; lane < kLanes; ++lane) {
          of_samples[lane] = here[(part * kLanes + lane) / 3];
        }
        add<Isa>(from + 3 * i + part * kLanes, to + 3 * i + part * kLanes, of_samples);
      }
    }
    for (; i < count; ++i) {
      for (int64_t channel = 0; channel < 3; ++channel) {
        const int64_t at = channel * p.channel_stride() + i * p.column_stride();
        const A value = clamped(number_of(from[at]) + change[i], static_cast<A>(kWhite<T>));
        to[at] = sample_of<T>(value);
      }
    }
  }

  template <typename Isa>
  GENACCEL_HOST_DEVICE static void run(const Update* update, UpdateMemory<T>* memory, int64_t frame,
                                       int64_t first_row, int64_t end_row, int64_t first_column) {
    const Update& p = *update;
    const int64_t count = std::min<int64_t>(kColumns, p.width - first_column);
    for (int64_t row = first_row - kRadius; row < end_row + kRadius; ++row) {
      const int64_t start = p.row_start(frame, line_of(row, p.height, p.periodic));
      const int64_t first = first_column - kRadius;
      load_row<Isa>(p, p.faithful, start, first, count + 2 * kRadius, memory->faithful.slot(row));
      load_row<Isa>(p, p.sharp, start, first, count + 2 * kRadius, memory->sharp.slot(row));
      if (row < first_row + kRadius) {
        continue;
      }
      const int64_t y = row - kRadius;
      filter_columns<Isa>(memory->faithful, p.taps, y, count);
      filter_rows<Isa>(memory->faithful, p.taps, memory->faithful_low, count);
      filter_columns<Isa>(memory->sharp, p.taps, y, count);
      filter_rows<Isa>(memory->sharp, p.taps, memory->sharp_low, count);
      const A* weight = p.weight == nullptr
                            ? nullptr
                            : p.weight + (frame * p.height + y) * p.width + first_column;
      find_change<Isa>(p, *memory, y, weight, count);
      const int64_t at = p.row_start(frame, y) + first_column * p.column_stride();
      add_change<Isa>(p, p.faithful + at, p.out + at, memory->change, count);
    }
  }
};

}  // namespace

template <typename T>
void frequency_update_cpu(const FrequencyUpdate<T>& update, int64_t begin, int64_t end) {
  const auto memory = std::make_unique<UpdateMemory<T>>();
  while (begin < end) {
    const int64_t frame = begin / update.height;
    const int64_t stop = std::min(end, (frame + 1) * update.height);
    for (int64_t column = 0; column < update.width; column += kColumns) {
      simd::run<UpdateRows<T>>(&update, memory.get(), frame, begin - frame * update.height,
                               stop - frame * update.height, column);
    }
    begin = stop;
  }
}

#define GENACCEL_INSTANTIATE(T) \
  template void frequency_update_cpu<T>(const FrequencyUpdate<T>&, int64_t, int64_t);
GENACCEL_INSTANTIATE(uint8_t)
GENACCEL_INSTANTIATE(float)
GENACCEL_INSTANTIATE(double)
GENACCEL_INSTANTIATE(Half)
GENACCEL_INSTANTIATE(BFloat16)
#undef GENACCEL_INSTANTIATE

}  // namespace genaccel::frequency
