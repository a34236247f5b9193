// SPDX-License-Identifier: Apache-2.0
// Range variant of asymmetric numeral systems (Duda, arXiv 1311.2540): 32-bit states, 16-bit words,
// L lanes.
//
// Stream: the L final states (u32, little endian), then 16-bit words (little endian) in the order
// in which a decoder reads them. Symbol i belongs to lane i mod L. Each lane starts at kStart and
// stays in [2^16, 2^32); a decoder that has read everything finds all lanes back at kStart, which
// is the integrity check.
#pragma once

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <vector>

#include "coder/cdf_tables.h"

namespace genaccel::coder {

constexpr int kMaxLanes = 64;
constexpr uint32_t kStart = uint32_t{1} << 16;

// A stream that no encoder has made, or that was made with other tables.
class StreamError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Throws std::invalid_argument unless 1 <= lanes <= kMaxLanes.
void check_lanes(int lanes);

// Which table each symbol of a call uses: one for all, or one each.
struct TableChoice {
  int64_t one = 0;
  std::vector<uint16_t> each;  // empty: `one` for all
};

class Encoder {
 public:
  explicit Encoder(int lanes);

  // Appends symbols. Throws std::invalid_argument if a symbol or a table is out of range; then
  // nothing is appended.
  void push(const int32_t* symbols, int64_t count, std::shared_ptr<const CdfTables> tables,
            TableChoice choice);

  // Appends symbols, each with a table of its own: cdfs [count, alphabet_size + 1].
  void push_cdfs(const int32_t* symbols, int64_t count, const int32_t* cdfs, int64_t alphabet_size,
                 int precision);

  // The stream of all symbols pushed since the last call.
  std::vector<uint8_t> finish();

 private:
  // Symbols are kept as pushed, for the coder runs from the last to the first.
  struct Segment {
    std::shared_ptr<const CdfTables> tables;
    TableChoice choice;
    std::vector<uint16_t> symbols;
    std::vector<EncodeEntry> entries;  // of symbols with tables of their own
    int precision;
    int64_t count() const { return static_cast<int64_t>(symbols.size() + entries.size()); }
  };

  int lanes_;
  std::vector<Segment> segments_;
};

class Decoder {
 public:
  // Copies the stream. Throws StreamError if it cannot hold the states.
  Decoder(const uint8_t* data, size_t size, int lanes);

  // The next `count` symbols. Throws StreamError if the stream ends before.
  void pull(int32_t* symbols, int64_t count, const CdfTables& tables, const TableChoice& choice);
  void pull_cdfs(int32_t* symbols, int64_t count, const int32_t* cdfs, int64_t alphabet_size,
                 int precision);

  // Throws StreamError unless every word was read and every lane is back at its start.
  void finish() const;

  // Bytes of the stream that the symbols so far needed: a stream cut off there still gives them.
  size_t bytes_read() const { return 4 * states_.size() + 2 * position_; }

 private:
  int lanes_;
  int lane_ = 0;  // of the next symbol
  std::vector<uint32_t> states_;
  std::vector<uint16_t> words_;
  size_t position_ = 0;
};

}  // namespace genaccel::coder
