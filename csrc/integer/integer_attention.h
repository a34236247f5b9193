// SPDX-License-Identifier: Apache-2.0
// Bridge: attention of int8 queries on the first keys of a cache; how many is a query's own.
#pragma once

#include <cstdint>

#include "common/status.h"
#include "common/stream.h"
#include "integer/integer_attention_math.h"

namespace genaccel::integer {

struct Attention {
  const int8_t* query;         // [batch, tokens, heads, channels]
  const int8_t* key;           // [batch, keys, heads, channels]
  const int8_t* value;         // [batch, keys, heads, channels]
  const int32_t* visible;      // [tokens]: keys that a query reads; of none the output is zero
  const int32_t* temperature;  // [heads], kTemperatureBits fraction bits, not negative
  int8_t* out;                 // [batch, tokens, heads, channels]
  int64_t tokens;
  int64_t keys;  // at most kMaxKeys
  int64_t heads;
  int64_t channels;  // at most kMaxHeadChannels
  uint32_t gain;     // 1 to kMaxOutputGain, kGainBits fraction bits
};

// Pairs of batch entry and head [begin, end).
void integer_attention_cpu(const Attention& problem, int64_t begin, int64_t end);

Status integer_attention_cuda(const Attention& problem, int64_t batch, Stream stream);

}  // namespace genaccel::integer
