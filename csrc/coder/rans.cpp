// SPDX-License-Identifier: Apache-2.0
#include "coder/rans.h"

#include <algorithm>
#include <string>
#include <type_traits>
#include <utility>

namespace genaccel::coder {
namespace {

// One step; writes a word below `out` if the state has to shrink first. `out` must have a word of
// room. No branch, for whether it shrinks is as random as the data: hence the shift by 0 or 16,
// which compilers leave alone, where they would make a branch of a conditional expression.
inline uint32_t encode_step(uint32_t state, const EncodeEntry& entry, int precision,
                            uint16_t*& out) {
  const uint32_t shrink = (state >> (32 - precision)) >= entry.frequency;
  out[-1] = static_cast<uint16_t>(state);
  out -= shrink;
  return encode_advance(state >> 16 * shrink, entry, precision);
}

// Symbols [0, count) of one table, backwards; the first belongs to lane 0 and count is a multiple
// of kLanes.
template <int kLanes>
uint16_t* encode_groups(uint32_t* states, const uint16_t* symbols, int64_t count,
                        const EncodeEntry* entries, int precision, uint16_t* out) {
  uint32_t x[kLanes];
  std::copy_n(states, kLanes, x);
  for (int64_t i = count; i > 0; i -= kLanes) {
#pragma GCC unroll 16
    for (int lane = kLanes - 1; lane >= 0; --lane) {
      x[lane] = encode_step(x[lane], entries[symbols[i - kLanes + lane]], precision, out);
    }
  }
  std::copy_n(x, kLanes, states);
  return out;
}

// Like the encoder's groups, forwards. The caller guarantees kLanes words per group.
template <int kLanes>
const uint16_t* decode_groups(uint32_t* states, int32_t* symbols, int64_t groups,
                              const DecodeEntry* entries, const uint16_t* slots, int precision,
                              const uint16_t* in) {
  const uint32_t mask = (uint32_t{1} << precision) - 1;
  uint32_t x[kLanes];
  std::copy_n(states, kLanes, x);
  for (int64_t group = 0; group < groups; ++group) {
#pragma GCC unroll 16
    for (int lane = 0; lane < kLanes; ++lane) {
      const uint32_t slot = x[lane] & mask;
      const uint16_t symbol = slots[slot];
      const DecodeEntry entry = entries[symbol];
      symbols[group * kLanes + lane] = symbol;
      const uint32_t state =
          decode_advance(x[lane], slot, entry.start, entry.frequency_minus_one + 1u, precision);
      const uint32_t grow = state < kStart;  // no branch, as in encode_step
      x[lane] = (state << 16 * grow) | (*in & (0 - grow));
      in += grow;
    }
  }
  std::copy_n(x, kLanes, states);
  return in;
}

using EncodeGroups = uint16_t* (*)(uint32_t*, const uint16_t*, int64_t, const EncodeEntry*, int,
                                   uint16_t*);
using DecodeGroups = const uint16_t* (*)(uint32_t*, int32_t*, int64_t, const DecodeEntry*,
                                         const uint16_t*, int, const uint16_t*);

// What `choose` says for a number of lanes that has an unrolled loop; else nullptr: one at a time.
template <typename Function, typename Choose>
Function with_lanes(int lanes, const Choose& choose) {
  switch (lanes) {
    case 1:
      return choose(std::integral_constant<int, 1>());
    case 2:
      return choose(std::integral_constant<int, 2>());
    case 4:
      return choose(std::integral_constant<int, 4>());
    case 8:
      return choose(std::integral_constant<int, 8>());
    case 16:
      return choose(std::integral_constant<int, 16>());
    default:
      return nullptr;
  }
}

// Copies integers byte by byte, lowest first; at once where that is the machine's own order.
// (Not memcpy: it must not get the null pointer of an empty vector.)
template <typename T>
uint8_t* store_little_endian(const T* values, size_t count, uint8_t* to) {
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  std::copy_n(reinterpret_cast<const uint8_t*>(values), count * sizeof(T), to);
#else
  for (size_t i = 0; i < count * sizeof(T); ++i) {
    to[i] = static_cast<uint8_t>(values[i / sizeof(T)] >> 8 * (i % sizeof(T)));
  }
#endif
  return to + count * sizeof(T);
}

template <typename T>
const uint8_t* load_little_endian(const uint8_t* from, size_t count, T* values) {
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  std::copy_n(from, count * sizeof(T), reinterpret_cast<uint8_t*>(values));
#else
  std::fill_n(values, count, T{0});
  for (size_t i = 0; i < count * sizeof(T); ++i) {
    values[i / sizeof(T)] |= static_cast<T>(T{from[i]} << 8 * (i % sizeof(T)));
  }
#endif
  return from + count * sizeof(T);
}

void check_table(int64_t table, int64_t num_tables) {
  if (table < 0 || table >= num_tables) {
    throw std::invalid_argument("table_ids must be in [0, " + std::to_string(num_tables) +
                                "), got " + std::to_string(table));
  }
}

void check_choice(const TableChoice& choice, int64_t num_tables) {
  if (choice.each.empty()) {
    check_table(choice.one, num_tables);
    return;
  }
  check_table(*std::max_element(choice.each.begin(), choice.each.end()), num_tables);
}

// Narrowed and checked from copies of blocks, so that what was checked is what is used even if
// another thread writes to the caller's array meanwhile.
std::vector<uint16_t> checked_symbols(const int32_t* symbols, int64_t count,
                                      int64_t alphabet_size) {
  constexpr int64_t kBlock = 1024;
  int32_t block[kBlock];
  std::vector<uint16_t> narrow(count);
  uint32_t largest = 0;
  for (int64_t first = 0; first < count; first += kBlock) {
    const int64_t size = std::min(kBlock, count - first);
    std::copy_n(symbols + first, size, block);
    for (int64_t i = 0; i < size; ++i) {  // as unsigned, negative symbols are large
      const auto symbol = static_cast<uint32_t>(block[i]);
      largest = std::max(largest, symbol);
      narrow[first + i] = static_cast<uint16_t>(symbol);
    }
  }
  if (largest >= alphabet_size) {
    throw std::invalid_argument("symbols must be in [0, " + std::to_string(alphabet_size) +
                                "), got " + std::to_string(static_cast<int32_t>(largest)));
  }
  return narrow;
}

}  // namespace

void check_lanes(int lanes) {
  if (lanes < 1 || lanes > kMaxLanes) {
    throw std::invalid_argument("lanes must be in [1, " + std::to_string(kMaxLanes) + "], got " +
                                std::to_string(lanes));
  }
}

Encoder::Encoder(int lanes) : lanes_(lanes) { check_lanes(lanes); }

void Encoder::push(const int32_t* symbols, int64_t count, std::shared_ptr<const CdfTables> tables,
                   TableChoice choice) {
  check_choice(choice, tables->num_tables());
  const int precision = tables->precision();
  std::vector<uint16_t> narrow = checked_symbols(symbols, count, tables->alphabet_size());
  segments_.push_back({std::move(tables), std::move(choice), std::move(narrow), {}, precision});
}

void Encoder::push_cdfs(const int32_t* symbols, int64_t count, const int32_t* cdfs,
                        int64_t alphabet_size, int precision) {
  const std::vector<uint16_t> narrow = checked_symbols(symbols, count, alphabet_size);
  std::vector<EncodeEntry> entries;
  entries.reserve(count);
  for (int64_t i = 0; i < count; ++i) {
    const int32_t* row = cdfs + i * (alphabet_size + 1);
    check_cdf_row(row, alphabet_size, precision);
    const Interval interval = interval_of(row, narrow[i], precision);
    entries.push_back(make_encode_entry(interval.start, interval.frequency, precision));
  }
  segments_.push_back({nullptr, {}, {}, std::move(entries), precision});
}

std::vector<uint8_t> Encoder::finish() {
  int64_t total = 0;
  for (const Segment& segment : segments_) {
    total += segment.count();
  }
  // A symbol writes at most one word. One more in front, which encode_step may touch without
  // keeping.
  const std::unique_ptr<uint16_t[]> buffer(new uint16_t[static_cast<size_t>(total) + 1]);
  uint16_t* const buffer_end = buffer.get() + total + 1;
  uint16_t* out = buffer_end;
  std::vector<uint32_t> states(lanes_, kStart);

  const EncodeGroups groups = with_lanes<EncodeGroups>(
      lanes_, [](auto lanes) -> EncodeGroups { return encode_groups<decltype(lanes)::value>; });
  int lane = static_cast<int>(total % lanes_);  // of the symbol after the one to code
  for (auto segment = segments_.rbegin(); segment != segments_.rend(); ++segment) {
    int64_t left = segment->count();
    const auto code_one = [&](const EncodeEntry& entry) {
      lane = (lane == 0 ? lanes_ : lane) - 1;
      states[lane] = encode_step(states[lane], entry, segment->precision, out);
    };
    if (segment->tables == nullptr) {
      while (left > 0) {
        code_one(segment->entries[--left]);
      }
      continue;
    }
    const uint16_t* symbols = segment->symbols.data();
    if (!segment->choice.each.empty()) {
      while (left > 0) {
        --left;
        code_one(segment->tables->encode_entries(segment->choice.each[left])[symbols[left]]);
      }
      continue;
    }
    const EncodeEntry* entries = segment->tables->encode_entries(segment->choice.one);
    while (left > 0 && lane != 0) {
      code_one(entries[symbols[--left]]);
    }
    if (groups != nullptr) {
      const int64_t grouped = left / lanes_ * lanes_;
      left -= grouped;
      out = groups(states.data(), symbols + left, grouped, entries, segment->precision, out);
    }
    while (left > 0) {
      code_one(entries[symbols[--left]]);
    }
  }
  segments_.clear();

  std::vector<uint8_t> stream(4 * static_cast<size_t>(lanes_) +
                              2 * static_cast<size_t>(buffer_end - out));
  uint8_t* to = store_little_endian(states.data(), states.size(), stream.data());
  store_little_endian(out, static_cast<size_t>(buffer_end - out), to);
  return stream;
}

Decoder::Decoder(const uint8_t* data, size_t size, int lanes) : lanes_(lanes) {
  check_lanes(lanes);
  const size_t header = 4 * static_cast<size_t>(lanes);
  if (size < header || (size - header) % 2 != 0) {
    throw StreamError("stream of " + std::to_string(size) + " bytes cannot be one of " +
                      std::to_string(lanes) + " lanes");
  }
  states_.resize(lanes);
  words_.resize((size - header) / 2);
  load_little_endian(load_little_endian(data, states_.size(), states_.data()), words_.size(),
                     words_.data());
  if (std::any_of(states_.begin(), states_.end(), [](uint32_t x) { return x < kStart; })) {
    throw StreamError("stream starts with a state that no encoder leaves");
  }
}

void Decoder::pull(int32_t* symbols, int64_t count, const CdfTables& tables,
                   const TableChoice& choice) {
  check_choice(choice, tables.num_tables());
  const int precision = tables.precision();
  const uint32_t mask = (uint32_t{1} << precision) - 1;
  const auto decode_one = [&](int64_t i, const DecodeEntry* entries, const uint16_t* slots) {
    uint32_t& state = states_[lane_];
    const uint32_t slot = state & mask;
    const uint16_t symbol = slots[slot];
    state = decode_advance(state, slot, entries[symbol].start,
                           entries[symbol].frequency_minus_one + 1u, precision);
    if (state < kStart) {
      if (position_ == words_.size()) {
        throw StreamError("stream ends before its symbols do");
      }
      state = (state << 16) | words_[position_++];
    }
    symbols[i] = symbol;
    lane_ = lane_ + 1 == lanes_ ? 0 : lane_ + 1;
  };
  if (!choice.each.empty()) {
    for (int64_t i = 0; i < count; ++i) {
      const int64_t table = choice.each[i];
      decode_one(i, tables.decode_entries(table), tables.slot_symbols(table));
    }
    return;
  }
  const DecodeEntry* entries = tables.decode_entries(choice.one);
  const uint16_t* slots = tables.slot_symbols(choice.one);
  int64_t i = 0;
  for (; i < count && lane_ != 0; ++i) {
    decode_one(i, entries, slots);
  }
  // As long as every lane could read a word, no read needs a check. Each round may use up less than
  // that, so repeat until little is left. One group less than would do, for a group that reads
  // nothing looks at the word behind the last of its own.
  const DecodeGroups decode = with_lanes<DecodeGroups>(
      lanes_, [](auto lanes) -> DecodeGroups { return decode_groups<decltype(lanes)::value>; });
  while (decode != nullptr) {
    const auto words_left = static_cast<int64_t>(words_.size() - position_);
    const int64_t groups = std::min((count - i) / lanes_, words_left / lanes_ - 1);
    if (groups <= 0) {
      break;
    }
    const uint16_t* in = decode(states_.data(), symbols + i, groups, entries, slots, precision,
                                words_.data() + position_);
    position_ = static_cast<size_t>(in - words_.data());
    i += groups * lanes_;
  }
  for (; i < count; ++i) {
    decode_one(i, entries, slots);
  }
}

void Decoder::pull_cdfs(int32_t* symbols, int64_t count, const int32_t* cdfs, int64_t alphabet_size,
                        int precision) {
  const uint32_t mask = (uint32_t{1} << precision) - 1;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t* row = cdfs + i * (alphabet_size + 1);
    check_cdf_row(row, alphabet_size, precision);
    uint32_t& state = states_[lane_];
    const uint32_t slot = state & mask;
    const int64_t symbol = find_symbol(row, alphabet_size, slot);
    const Interval interval = interval_of(row, symbol, precision);
    state = decode_advance(state, slot, interval.start, interval.frequency, precision);
    if (state < kStart) {
      if (position_ == words_.size()) {
        throw StreamError("stream ends before its symbols do");
      }
      state = (state << 16) | words_[position_++];
    }
    symbols[i] = static_cast<int32_t>(symbol);
    lane_ = lane_ + 1 == lanes_ ? 0 : lane_ + 1;
  }
}

void Decoder::finish() const {
  if (position_ != words_.size()) {
    throw StreamError("stream goes on behind its symbols");
  }
  if (!std::all_of(states_.begin(), states_.end(), [](uint32_t x) { return x == kStart; })) {
    throw StreamError("stream does not end in its start state");
  }
}

}  // namespace genaccel::coder
