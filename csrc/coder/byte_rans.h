// SPDX-License-Identifier: Apache-2.0
// The byte-wise variant of range ANS (Duda, arXiv 1311.2540) that the files of RDVQ (arXiv
// 2604.10546) hold: one 32-bit state in [2^23, 2^31), renormalised by bytes. Our own files use the
// coder of rans.h.
//
// Stream: the final state (u32, little endian), then bytes in the order in which a decoder reads
// them. The encoder starts at kByteStart, and a decoder that has read everything is back there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "coder/cdf_tables.h"

namespace genaccel::coder {

constexpr uint32_t kByteStart = uint32_t{1} << 23;

class ByteEncoder {
 public:
  // Appends symbols, each with a table of its own: cdfs [count, alphabet_size + 1]. Throws
  // std::invalid_argument if a row or a symbol is not valid; then nothing is appended.
  void push_cdfs(const int32_t* symbols, int64_t count, const int32_t* cdfs, int64_t alphabet_size,
                 int precision);

  // The stream of all symbols pushed since the last call.
  std::vector<uint8_t> finish();

 private:
  // Kept as pushed, for the coder runs from the last to the first.
  struct Item {
    EncodeEntry entry;
    int precision;
  };
  std::vector<Item> items_;
};

class ByteDecoder {
 public:
  // Copies the stream. Throws StreamError if it does not begin with a state.
  ByteDecoder(const uint8_t* data, size_t size);

  // The next `count` symbols. Throws StreamError if the stream ends before.
  void pull_cdfs(int32_t* symbols, int64_t count, const int32_t* cdfs, int64_t alphabet_size,
                 int precision);

  // Throws StreamError unless every byte was read and the state is back at its start.
  void finish() const;

 private:
  std::vector<uint8_t> data_;
  size_t position_ = 4;
  uint32_t state_ = 0;
};

}  // namespace genaccel::coder
