// SPDX-License-Identifier: Apache-2.0
// 8 pairs at a time where a head is a whole number of vectors, and one by one otherwise.
#include <vector>

#include "integer/integer_rotate_normalize.h"
#include "integer/simd_shared.h"

namespace genaccel::integer {
namespace {

using simd::Bits;
using simd::Ints;
using simd::Shorts;

struct RotateNormalizeRows {
  // Turned pairs; the sums wrap around as those of turned() do.
  template <typename Isa>
  GENACCEL_HOST_DEVICE static Shorts turned_pairs(Shorts x, Shorts rotation) {
    const Bits even_half = Bits{} + 0xffffu;
    const auto both = bit_cast<Bits>(x);
    const auto cosine_sine = bit_cast<Bits>(rotation);
    const auto sine_cosine = bit_cast<Shorts>((cosine_sine << 16) | (cosine_sine >> 16));
    const Ints a = simd::pair_dot<Isa>(bit_cast<Shorts>(both & even_half), rotation);
    const Ints b = simd::pair_dot<Isa>(bit_cast<Shorts>(both & ~even_half), rotation);
    const Ints odd_sum = simd::pair_dot<Isa>(x, sine_cosine);
    const Bits even = (bit_cast<Bits>(a) - bit_cast<Bits>(b) + 32768u) >> 16;
    const Bits odd = (bit_cast<Bits>(odd_sum) + 32768u) & ~even_half;
    return bit_cast<Shorts>(even | odd);
  }

  template <typename Isa>
  GENACCEL_HOST_DEVICE static void turn_by_vectors(const int16_t* x, const int16_t* rotation,
                                                   int16_t* head, int8_t* out, int64_t channels) {
    simd::Longs sums = {};
    for (int64_t c = 0; c < channels; c += simd::kShorts) {
      const Shorts pairs =
          turned_pairs<Isa>(simd::load_as<Shorts>(x + c), simd::load_as<Shorts>(rotation + c));
      simd::store_as(head + c, pairs);
      const auto squares = bit_cast<simd::Longs>(simd::pair_dot<Isa>(pairs, pairs));
      sums += (squares & 0xffffffffu) + (squares >> 32);  // up to 2^31 each: unsigned
    }
    const fixed_point::InverseNorm inverse =
        fixed_point::inverse_norm(sums[0] + sums[1] + sums[2] + sums[3], kUnitGain);
    for (int64_t c = 0; c < channels; c += simd::kShorts) {
      const auto pairs = simd::load_as<Ints>(head + c);
      const int32_t half = int32_t{1} << (inverse.shift - 1);
      const Ints even = (simd::low_halves(pairs) * inverse.mantissa + half) >> inverse.shift;
      const Ints odd = ((pairs >> 16) * inverse.mantissa + half) >> inverse.shift;
      const auto both =
          bit_cast<Shorts>((bit_cast<Bits>(even) & 0xffffu) | (bit_cast<Bits>(odd) << 16));
      simd::store_as(out + c, simd::saturated_bytes<Isa>(both));
    }
  }

  template <typename Isa>
  GENACCEL_HOST_DEVICE static void run(const RotateNormalize* problem, int16_t* head, int64_t begin,
                                       int64_t end) {
    const RotateNormalize p = *problem;
    const int64_t pairs = p.channels / 2;
    for (int64_t row = begin; row < end; ++row) {
      const int16_t* rotation = p.rotations + (row % p.tokens) * p.channels;
      for (int64_t h = row * p.heads; h < (row + 1) * p.heads; ++h) {
        const int16_t* x = p.x + h * p.channels;
        int8_t* out = p.out + h * p.channels;
        if (p.channels % simd::kShorts == 0) {
          turn_by_vectors<Isa>(x, rotation, head, out, p.channels);
          continue;
        }
        uint64_t sum = 0;
        for (int64_t i = 0; i < pairs; ++i) {
          const Pair pair = turned(x[2 * i], x[2 * i + 1], rotation[2 * i], rotation[2 * i + 1]);
          head[2 * i] = static_cast<int16_t>(pair.even);
          head[2 * i + 1] = static_cast<int16_t>(pair.odd);
          sum += uint64_t{fixed_point::squared(pair.even)} + fixed_point::squared(pair.odd);
        }
        const fixed_point::InverseNorm inverse = fixed_point::inverse_norm(sum, kUnitGain);
        for (int64_t c = 0; c < p.channels; ++c) {
          out[c] =
              static_cast<int8_t>(fixed_point::to_int8(fixed_point::normalized(head[c], inverse)));
        }
      }
    }
  }
};

}  // namespace

void integer_rotate_normalize_cpu(const RotateNormalize& problem, int64_t begin, int64_t end) {
  std::vector<int16_t> head(problem.channels);
  simd::run<RotateNormalizeRows>(&problem, head.data(), begin, end);
}

}  // namespace genaccel::integer
