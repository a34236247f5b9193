// SPDX-License-Identifier: Apache-2.0
#include "coder/cdf_tables.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace genaccel::coder {

EncodeEntry make_encode_entry(uint32_t start, uint32_t frequency, int precision) {
  if (frequency == 1) {
    return {~uint64_t{0}, start + (uint32_t{1} << precision) - 1, 1};
  }
  return {~uint64_t{0} / frequency + 1, start, frequency};
}

void check_cdf_row(const int32_t* row, int64_t alphabet_size, int precision) {
  const int32_t first = read_once(row);
  const int32_t last = read_once(row + alphabet_size);
  if (first != 0 || last != int32_t{1} << precision) {
    throw std::invalid_argument(
        "each cdf must run from 0 to 2^precision = " + std::to_string(1 << precision) + ", got " +
        std::to_string(first) + " to " + std::to_string(last));
  }
  int32_t falls = 0;
  for (int64_t s = 0; s < alphabet_size;
       ++s) {  // to the end in any case, and in int: that vectorises
    falls |= static_cast<int32_t>(row[s] >= row[s + 1]);
  }
  if (falls != 0) {
    for (int64_t s = 0; s < alphabet_size; ++s) {
      const int32_t start = read_once(row + s);
      const int32_t end = read_once(row + s + 1);
      if (start >= end) {
        throw std::invalid_argument("each cdf must increase strictly, but symbol " +
                                    std::to_string(s) + " goes from " + std::to_string(start) +
                                    " to " + std::to_string(end));
      }
    }
    throw std::invalid_argument("cdfs must not change while they are read");
  }
}

CdfTables::CdfTables(const int32_t* cdfs, int64_t num_tables, int64_t alphabet_size, int precision)
    : num_tables_(num_tables), alphabet_size_(alphabet_size), precision_(precision) {
  if (precision < 1 || precision > kMaxPrecision) {
    throw std::invalid_argument("precision must be in [1, " + std::to_string(kMaxPrecision) +
                                "], got " + std::to_string(precision));
  }
  if (num_tables < 1 || num_tables > kMaxTables) {
    throw std::invalid_argument("cdfs must have 1 to " + std::to_string(kMaxTables) +
                                " tables, got " + std::to_string(num_tables));
  }
  if (alphabet_size < 1 || alphabet_size > int64_t{1} << precision) {
    throw std::invalid_argument("cdfs must have 1 to 2^precision symbols, got " +
                                std::to_string(alphabet_size));
  }
  encode_.reserve(num_tables * alphabet_size);
  decode_.reserve(num_tables * alphabet_size);
  std::vector<int32_t> row(alphabet_size + 1);  // a copy: nobody else writes to it
  for (int64_t table = 0; table < num_tables; ++table) {
    std::copy_n(cdfs + table * (alphabet_size + 1), alphabet_size + 1, row.begin());
    check_cdf_row(row.data(), alphabet_size, precision);
    for (int64_t s = 0; s < alphabet_size; ++s) {
      const auto start = static_cast<uint32_t>(row[s]);
      const auto frequency = static_cast<uint32_t>(row[s + 1] - row[s]);
      encode_.push_back(make_encode_entry(start, frequency, precision));
      decode_.push_back({static_cast<uint16_t>(start), static_cast<uint16_t>(frequency - 1)});
    }
  }
  slots_.resize(num_tables);
  slots_made_ = std::make_unique<std::once_flag[]>(num_tables);
}

const uint16_t* CdfTables::slot_symbols(int64_t table) const {
  std::call_once(slots_made_[table], [this, table] {
    std::vector<uint16_t> slots(size_t{1} << precision_);
    const DecodeEntry* entries = decode_entries(table);
    for (int64_t s = 0; s < alphabet_size_; ++s) {
      std::fill_n(slots.begin() + entries[s].start, entries[s].frequency_minus_one + 1,
                  static_cast<uint16_t>(s));
    }
    slots_[table] = std::move(slots);
  });
  return slots_[table].data();
}

}  // namespace genaccel::coder
