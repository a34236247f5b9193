// SPDX-License-Identifier: Apache-2.0
// Keys and values of a head are widened to int16 and packed once: 8 keys across the lanes by pairs
// of channels, values by pairs of keys. Then two queries at a time take one pass for scores, one
// for weights and one for the weighted sum, none of which has to fold a vector.
#include <algorithm>
#include <vector>

#include "common/integer.h"
#include "common/read_once.h"
#include "integer/integer_attention.h"
#include "integer/simd_shared.h"

namespace genaccel::integer {
namespace {

using simd::Ints;
using simd::Shorts;

constexpr int kQueries = 2;  // that share what is loaded of keys and values
constexpr int kSums = 4;     // vectors of scores, or of output channels, of a query in registers

struct Scratch {
  int64_t padded;    // channels, to whole vectors
  int64_t room;      // keys to a multiple of 16
  int16_t* query;    // [kQueries, padded]
  int16_t* rows;     // [8, padded]
  int16_t* keys;     // [blocks of 8 keys, padded / 2, 8, 2]
  int16_t* values;   // [pairs of keys, padded, 2]
  int32_t* scores;   // [kQueries, room]
  int16_t* weights;  // [kQueries, room]
};

int64_t padded_keys(int64_t keys) { return ceil_div(keys, simd::kShorts) * simd::kShorts; }

struct AttentionHeads {
  template <typename Isa>
  GENACCEL_HOST_DEVICE static void widen_head(const Attention& p, const Scratch& s, int64_t offset,
                                              int64_t keys) {
    const int64_t stride = p.heads * p.channels;
    for (int64_t j = 0; j < keys; j += simd::kInts) {
      for (int64_t k = 0; k < simd::kInts; ++k) {
        const int64_t row = std::min(j + k, keys - 1);  // what lies behind the last has no weight
        simd::widen<Isa>(p.key + offset + row * stride, p.channels, s.rows + k * s.padded,
                         s.padded);
      }
      for (int64_t c = 0; c < s.padded; c += simd::kShorts) {
        Ints block[simd::kInts];
        for (int k = 0; k < simd::kInts; ++k) {
          block[k] = simd::load_as<Ints>(s.rows + k * s.padded + c);
        }
        simd::transpose(block);
        for (int pair = 0; pair < simd::kInts; ++pair) {
          simd::store_as(s.keys + j * s.padded + (c / 2 + pair) * simd::kShorts, block[pair]);
        }
      }
    }
    int16_t* even = s.rows;
    for (int64_t j = 0; j < keys; j += 2) {
      simd::widen<Isa>(p.value + offset + j * stride, p.channels, even, s.padded);
      int16_t* odd = s.values + (j + 1) * s.padded;  // the upper half of where the pairs go
      if (j + 1 < keys) {
        simd::widen<Isa>(p.value + offset + (j + 1) * stride, p.channels, odd, s.padded);
      } else {
        std::fill_n(odd, s.padded, int16_t{0});
      }
      for (int64_t c = 0; c < s.padded; c += simd::kShorts) {
        // In place: pairs of 16 channels end before the odd values of the next ones begin.
        const auto a = simd::load_as<Shorts>(even + c);
        const auto b = simd::load_as<Shorts>(odd + c);
        int16_t* to = s.values + j * s.padded + 2 * c;
        simd::store_as(to, __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21,
                                                   6, 22, 7, 23));
        simd::store_as(to + simd::kShorts,
                       __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29,
                                               14, 30, 15, 31));
      }
    }
  }

  // Scores of kBlocks blocks of 8 keys.
  template <typename Isa, int kBlocks>
  GENACCEL_HOST_DEVICE static void score_blocks(const Scratch& s, int64_t first) {
    const int64_t size = simd::kInts * s.padded;
    const int16_t* keys = s.keys + first * size;
    Ints sum[kQueries][kBlocks] = {};
    for (int64_t c = 0; c < s.padded; c += 2) {
      Shorts query[kQueries];
      for (int q = 0; q < kQueries; ++q) {
        query[q] = simd::broadcast_pair(s.query + q * s.padded + c);
      }
      for (int b = 0; b < kBlocks; ++b) {
        const auto pairs = simd::load_as<Shorts>(keys + b * size + c * simd::kInts);
        for (int q = 0; q < kQueries; ++q) {
          sum[q][b] += simd::pair_dot<Isa>(query[q], pairs);
        }
      }
    }
    for (int q = 0; q < kQueries; ++q) {
      for (int b = 0; b < kBlocks; ++b) {
        simd::store_as(s.scores + q * s.room + (first + b) * simd::kInts, sum[q][b]);
      }
    }
  }

  template <typename Isa>
  GENACCEL_HOST_DEVICE static void score(const Scratch& s, int64_t keys) {
    const int64_t blocks = ceil_div(keys, simd::kInts);
    int64_t first = 0;
    for (; first + kSums <= blocks; first += kSums) {
      score_blocks<Isa, kSums>(s, first);
    }
    for (; first < blocks; ++first) {
      score_blocks<Isa, 1>(s, first);
    }
  }

  // Weights of a query's scores of the first `own` keys, zeros for the others up to `keys` and to a
  // multiple of 16; returns their sum.
  template <typename Isa>
  GENACCEL_HOST_DEVICE static uint32_t weigh(const int32_t* scores, int16_t* weights, int64_t own,
                                             int64_t keys, uint32_t temperature, uint32_t limit) {
    int32_t largest = INT32_MIN;
    for (int64_t j = 0; j < own; ++j) {
      largest = scores[j] > largest ? scores[j] : largest;
    }
    simd::Bits sum = {};
    for (int64_t j = 0; j < keys; j += simd::kShorts) {
      Ints parts[2];
      for (int v = 0; v < 2; ++v) {
        const int64_t first = j + v * simd::kInts;
        const auto lanes = simd::load_as<simd::Bits>(scores + first);
        const Ints lane = {0, 1, 2, 3, 4, 5, 6, 7};
        const Ints exists = lane < static_cast<int32_t>(own - first);
        const simd::Bits weight = attention_weight(static_cast<uint32_t>(largest) - lanes,
                                                   temperature, limit, simd::HighProduct<Isa>{}) &
                                  bit_cast<simd::Bits>(exists);
        sum += weight;
        parts[v] = bit_cast<Ints>(weight);
      }
      simd::store_as(weights + j, simd::saturated_shorts<Isa>(parts[0], parts[1]));
    }
    uint32_t total = 0;
    for (int i = 0; i < simd::kInts; ++i) {
      total += sum[i];
    }
    return total;
  }

  // kVectors vectors of output channels, in values' units times the sums of the weights.
  template <typename Isa, int kVectors>
  GENACCEL_HOST_DEVICE static void mix(const Scratch& s, int64_t keys, int64_t first,
                                       Ints (&sum)[kQueries][kSums]) {
    for (int64_t j = 0; j < keys; j += 2) {
      const int16_t* values = s.values + j * s.padded + 2 * first;
      Shorts weights[kQueries];
      for (int q = 0; q < kQueries; ++q) {
        weights[q] = simd::broadcast_pair(s.weights + q * s.room + j);
      }
      for (int v = 0; v < kVectors; ++v) {
        const auto pairs = simd::load_as<Shorts>(values + v * simd::kShorts);
        for (int q = 0; q < kQueries; ++q) {
          sum[q][v] += simd::pair_dot<Isa>(weights[q], pairs);
        }
      }
    }
  }

  template <typename Isa>
  GENACCEL_HOST_DEVICE static void average(const Scratch& s, int64_t keys,
                                           const Reciprocal (&reciprocals)[kQueries],
                                           int8_t* const (&out)[kQueries], int64_t channels) {
    for (int64_t first = 0; first < s.padded; first += kSums * simd::kInts) {
      Ints sum[kQueries][kSums] = {};
      if (s.padded - first >= kSums * simd::kInts) {
        mix<Isa, kSums>(s, keys, first, sum);
      } else {
        mix<Isa, kSums / 2>(s, keys, first, sum);  // what is left is one vector of 16
      }
      const int64_t count = std::min<int64_t>(kSums * simd::kInts, channels - first);
      for (int q = 0; q < kQueries; ++q) {
        int8_t averages[kSums * simd::kInts];
        for (int v = 0; v < kSums; v += 2) {
          const Ints multiplier = Ints{} + reciprocals[q].multiplier;
          const Ints a = simd::scaled<Isa>(sum[q][v], multiplier, reciprocals[q].shift);
          const Ints b = simd::scaled<Isa>(sum[q][v + 1], multiplier, reciprocals[q].shift);
          simd::store_as(averages + v * simd::kInts,
                         simd::saturated_bytes<Isa>(simd::saturated_shorts<Isa>(a, b)));
        }
        std::copy_n(averages, count, out[q] + first);
      }
    }
  }

  template <typename Isa>
  GENACCEL_HOST_DEVICE static void run(const Attention* problem, const Scratch* scratch,
                                       int64_t begin, int64_t end) {
    const Attention p = *problem;
    const Scratch s = *scratch;
    int64_t widest = 0;
    for (int64_t i = 0; i < p.tokens; ++i) {
      widest = std::max<int64_t>(widest, read_once(p.visible + i));
    }
    widest = std::min(widest, p.keys);
    const int64_t stride = p.heads * p.channels;
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t batch = unit / p.heads;
      const int64_t head = unit % p.heads;
      widen_head<Isa>(p, s, batch * p.keys * stride + head * p.channels, widest);
      const auto temperature = static_cast<uint32_t>(read_once(p.temperature + head));
      const uint32_t limit = largest_below(temperature);
      for (int64_t i = 0; i < p.tokens; i += kQueries) {
        int64_t own[kQueries];
        int8_t* out[kQueries];
        int64_t keys = 0;
        for (int q = 0; q < kQueries; ++q) {
          const int64_t token = std::min(i + q, p.tokens - 1);  // the last one twice does no harm
          const int64_t offset = (batch * p.tokens + token) * stride + head * p.channels;
          simd::widen<Isa>(p.query + offset, p.channels, s.query + q * s.padded, s.padded);
          own[q] = std::clamp<int64_t>(read_once(p.visible + token), 0, widest);
          out[q] = p.out + offset;
          keys = std::max(keys, own[q]);
        }
        score<Isa>(s, keys);
        Reciprocal reciprocals[kQueries];
        for (int q = 0; q < kQueries; ++q) {
          const uint32_t sum = weigh<Isa>(s.scores + q * s.room, s.weights + q * s.room, own[q],
                                          keys, temperature, limit);
          reciprocals[q] = reciprocal(sum, p.gain);
        }
        average<Isa>(s, keys, reciprocals, out, p.channels);
      }
    }
  }
};

}  // namespace

void integer_attention_cpu(const Attention& problem, int64_t begin, int64_t end) {
  const int64_t padded = ceil_div(problem.channels, simd::kShorts) * simd::kShorts;
  const int64_t room = padded_keys(problem.keys);
  std::vector<int16_t> shorts((kQueries + simd::kInts + 2 * room) * padded + kQueries * room);
  std::vector<int32_t> scores(kQueries * room);
  Scratch scratch;
  scratch.padded = padded;
  scratch.room = room;
  scratch.query = shorts.data();
  scratch.rows = scratch.query + kQueries * padded;
  scratch.keys = scratch.rows + simd::kInts * padded;
  scratch.values = scratch.keys + room * padded;
  scratch.weights = scratch.values + room * padded;
  scratch.scores = scores.data();
  simd::run<AttentionHeads>(&problem, static_cast<const Scratch*>(&scratch), begin, end);
}

}  // namespace genaccel::integer
