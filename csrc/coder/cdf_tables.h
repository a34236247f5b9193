// SPDX-License-Identifier: Apache-2.0
// Static cumulative tables, checked once, in the forms that the coder's loops read.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <vector>

#include "common/read_once.h"

namespace genaccel::coder {

constexpr int kMaxPrecision = 16;  // bits; a 32-bit state with 16-bit words has room for no more
constexpr int64_t kMaxTables = 65535;

// Encoding x -> floor(x / f) * 2^p + x mod f + start without a division: q = high half of x *
// reciprocal, then x + bias + q * (2^p - f). With reciprocal = ceil(2^64 / f), q is exact for
// 32-bit x, since x * f < 2^64. For f = 1 the reciprocal 2^64 - 1 gives q = x - 1, and the bias
// makes up for it.
struct EncodeEntry {
  uint64_t reciprocal;
  uint32_t bias;
  uint32_t frequency;
};

// 4 bytes a symbol, so that tables of 4096 symbols stay in the first-level cache.
struct DecodeEntry {
  uint16_t start;
  uint16_t frequency_minus_one;
};

EncodeEntry make_encode_entry(uint32_t start, uint32_t frequency, int precision);

// The state after a symbol; it must have been shrunk to fewer than frequency * 2^(32 - precision).
inline uint32_t encode_advance(uint32_t state, const EncodeEntry& entry, int precision) {
  const auto quotient =
      static_cast<uint32_t>((static_cast<unsigned __int128>(state) * entry.reciprocal) >> 64);
  return state + entry.bias + quotient * ((uint32_t{1} << precision) - entry.frequency);
}

// Its inverse, given the symbol that `slot`, the state's low bits, falls to.
inline uint32_t decode_advance(uint32_t state, uint32_t slot, uint32_t start, uint32_t frequency,
                               int precision) {
  return frequency * (state >> precision) + slot - start;
}

// The symbol of a slot, by bisection of a cumulative row.
inline int64_t find_symbol(const int32_t* row, int64_t alphabet_size, uint32_t slot) {
  return std::upper_bound(row + 1, row + alphabet_size, static_cast<int32_t>(slot)) - row - 1;
}

// Throws std::invalid_argument unless the row runs strictly upwards from 0 to 2^precision.
void check_cdf_row(const int32_t* row, int64_t alphabet_size, int precision);

// The slots of a symbol.
struct Interval {
  uint32_t start;
  uint32_t frequency;
};

// Those in a row that check_cdf_row has passed, where another thread may have written since. Throws
// std::invalid_argument if they are none any more: a frequency of zero would divide by zero here,
// and go on forever in a coder.
inline Interval interval_of(const int32_t* row, int64_t symbol, int precision) {
  const int32_t start = read_once(row + symbol);
  const int32_t end = read_once(row + symbol + 1);
  if (start < 0 || start >= end || end > int32_t{1} << precision) {
    throw std::invalid_argument("cdfs must not change while they are read");
  }
  return {static_cast<uint32_t>(start), static_cast<uint32_t>(end) - static_cast<uint32_t>(start)};
}

class CdfTables {
 public:
  // cdfs [num_tables, alphabet_size + 1]. Throws std::invalid_argument.
  CdfTables(const int32_t* cdfs, int64_t num_tables, int64_t alphabet_size, int precision);

  int64_t num_tables() const { return num_tables_; }
  int64_t alphabet_size() const { return alphabet_size_; }
  int precision() const { return precision_; }

  const EncodeEntry* encode_entries(int64_t table) const {
    return encode_.data() + table * alphabet_size_;
  }
  const DecodeEntry* decode_entries(int64_t table) const {
    return decode_.data() + table * alphabet_size_;
  }
  // Symbol of each of the 2^precision slots. Built on first use, since encoders do without;
  // thread-safe.
  const uint16_t* slot_symbols(int64_t table) const;

 private:
  int64_t num_tables_;
  int64_t alphabet_size_;
  int precision_;
  std::vector<EncodeEntry> encode_;  // [num_tables, alphabet_size]
  std::vector<DecodeEntry> decode_;  // [num_tables, alphabet_size]
  mutable std::vector<std::vector<uint16_t>> slots_;
  std::unique_ptr<std::once_flag[]> slots_made_;
};

}  // namespace genaccel::coder
