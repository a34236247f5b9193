// SPDX-License-Identifier: Apache-2.0
#include "coder/byte_rans.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "coder/rans.h"

namespace genaccel::coder {
namespace {

constexpr int kStateBits = 31;

}  // namespace

void ByteEncoder::push_cdfs(const int32_t* symbols, int64_t count, const int32_t* cdfs,
                            int64_t alphabet_size, int precision) {
  std::vector<Item> items;
  items.reserve(count);
  for (int64_t i = 0; i < count; ++i) {
    const int32_t* row = cdfs + i * (alphabet_size + 1);
    const int32_t symbol = read_once(symbols + i);
    if (symbol < 0 || symbol >= alphabet_size) {
      throw std::invalid_argument("symbols must be in [0, " + std::to_string(alphabet_size) +
                                  "), got " + std::to_string(symbol));
    }
    check_cdf_row(row, alphabet_size, precision);
    const Interval interval = interval_of(row, symbol, precision);
    items.push_back({make_encode_entry(interval.start, interval.frequency, precision), precision});
  }
  items_.insert(items_.end(), items.begin(), items.end());
}

std::vector<uint8_t> ByteEncoder::finish() {
  std::vector<uint8_t> reversed;
  uint32_t state = kByteStart;
  for (auto item = items_.rbegin(); item != items_.rend(); ++item) {
    // As long as the symbol would carry the state beyond its interval.
    while ((state >> (kStateBits - item->precision)) >= item->entry.frequency) {
      reversed.push_back(static_cast<uint8_t>(state));
      state >>= 8;
    }
    state = encode_advance(state, item->entry, item->precision);
  }
  items_.clear();
  for (int shift = 24; shift >= 0; shift -= 8) {
    reversed.push_back(static_cast<uint8_t>(state >> shift));
  }
  std::reverse(reversed.begin(), reversed.end());
  return reversed;
}

ByteDecoder::ByteDecoder(const uint8_t* data, size_t size) : data_(data, data + size) {
  if (size < position_) {
    throw StreamError("stream of " + std::to_string(size) + " bytes cannot hold a state");
  }
  for (size_t i = position_; i > 0; --i) {
    state_ = (state_ << 8) | data_[i - 1];
  }
  if (state_ < kByteStart || state_ >> kStateBits != 0) {
    throw StreamError("stream starts with a state that no encoder leaves");
  }
}

void ByteDecoder::pull_cdfs(int32_t* symbols, int64_t count, const int32_t* cdfs,
                            int64_t alphabet_size, int precision) {
  const uint32_t mask = (uint32_t{1} << precision) - 1;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t* row = cdfs + i * (alphabet_size + 1);
    check_cdf_row(row, alphabet_size, precision);
    const uint32_t slot = state_ & mask;
    const int64_t symbol = find_symbol(row, alphabet_size, slot);
    const Interval interval = interval_of(row, symbol, precision);
    state_ = decode_advance(state_, slot, interval.start, interval.frequency, precision);
    while (state_ < kByteStart) {
      if (position_ == data_.size()) {
        throw StreamError("stream ends before its symbols do");
      }
      state_ = (state_ << 8) | data_[position_++];
    }
    symbols[i] = static_cast<int32_t>(symbol);
  }
}

void ByteDecoder::finish() const {
  if (position_ != data_.size()) {
    throw StreamError("stream goes on behind its symbols");
  }
  if (state_ != kByteStart) {
    throw StreamError("stream does not end in its start state");
  }
}

}  // namespace genaccel::coder
