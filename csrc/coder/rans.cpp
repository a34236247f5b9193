// SPDX-License-Identifier: Apache-2.0
#include "coder/rans.h"

#include <algorithm>
#include <cstring>
#include <string>

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
  state >>= 16 * shrink;
  const auto quotient =
      static_cast<uint32_t>((static_cast<unsigned __int128>(state) * entry.reciprocal) >> 64);
  return state + entry.bias + quotient * ((uint32_t{1} << precision) - entry.frequency);
}

// Symbols [0, count) of one table, backwards; the first belongs to lane 0 and count is a multiple
// of kLanes.
template <int kLanes>
uint16_t* encode_groups(uint32_t* states, const uint16_t* symbols, int64_t count,
                        const EncodeEntry* entries, int precision, uint16_t* out) {
  uint32_t x[kLanes];
  std::copy_n(states, kLanes, x);
  for (int64_t i = count; i > 0; i -= kLanes) {
    for (int lane = kLanes - 1; lane >= 0; --lane) {
      x[lane] = encode_step(x[lane], entries[symbols[i - kLanes + lane]], precision, out);
    }
  }
  std::copy_n(x, kLanes, states);
  return out;
}

inline uint32_t decode_advance(uint32_t state, uint32_t slot, uint32_t start, uint32_t frequency,
                               int precision) {
  return frequency * (state >> precision) + slot - start;
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
    for (int lane = 0; lane < kLanes; ++lane) {
      const uint32_t slot = x[lane] & mask;
      const uint16_t symbol = slots[slot];
      const DecodeEntry entry = entries[symbol];
      symbols[group * kLanes + lane] = symbol;
      const uint32_t state =
          decode_advance(x[lane], slot, entry.start, entry.frequency_minus_one + 1u, precision);
      const bool grow = state < kStart;
      x[lane] = grow ? (state << 16) | *in : state;
      in += grow;
    }
  }
  std::copy_n(x, kLanes, states);
  return in;
}

// Copies integers byte by byte, lowest first; one memcpy where that is the machine's own order.
template <typename T>
uint8_t* store_little_endian(const T* values, size_t count, uint8_t* to) {
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  std::memcpy(to, values, count * sizeof(T));
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
  std::memcpy(values, from, count * sizeof(T));
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

[[noreturn]] void throw_bad_symbol(int32_t symbol, int64_t alphabet_size) {
  throw std::invalid_argument("symbols must be in [0, " + std::to_string(alphabet_size) +
                              "), got " + std::to_string(symbol));
}

void check_symbols(const int32_t* symbols, int64_t count, int64_t alphabet_size) {
  uint32_t largest = 0;
  for (int64_t i = 0; i < count; ++i) {  // as unsigned, negative symbols are large
    largest = std::max(largest, static_cast<uint32_t>(symbols[i]));
  }
  if (count > 0 && largest >= alphabet_size) {
    throw_bad_symbol(static_cast<int32_t>(largest), alphabet_size);
  }
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
  check_symbols(symbols, count, tables->alphabet_size());
  Segment segment{std::move(tables), std::move(choice), {}, {}, 0};
  segment.symbols.assign(symbols, symbols + count);
  segment.precision = segment.tables->precision();
  segments_.push_back(std::move(segment));
}

void Encoder::push_cdfs(const int32_t* symbols, int64_t count, const int32_t* cdfs,
                        int64_t alphabet_size, int precision) {
  check_symbols(symbols, count, alphabet_size);
  Segment segment{nullptr, {}, {}, {}, precision};
  segment.entries.reserve(count);
  for (int64_t i = 0; i < count; ++i) {
    const int32_t* row = cdfs + i * (alphabet_size + 1);
    check_cdf_row(row, alphabet_size, precision);
    const int32_t start = row[symbols[i]];
    segment.entries.push_back(make_encode_entry(static_cast<uint32_t>(start),
                                                static_cast<uint32_t>(row[symbols[i] + 1] - start),
                                                precision));
  }
  segments_.push_back(std::move(segment));
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

  int64_t next = total;  // number of the symbol after the one to code
  for (auto segment = segments_.rbegin(); segment != segments_.rend(); ++segment) {
    const int64_t count = segment->count();
    const int64_t first = next - count;
    const auto code_one = [&](int64_t i, const EncodeEntry& entry) {
      uint32_t& state = states[(first + i) % lanes_];
      state = encode_step(state, entry, segment->precision, out);
    };
    if (segment->tables == nullptr) {
      for (int64_t i = count - 1; i >= 0; --i) {
        code_one(i, segment->entries[i]);
      }
    } else if (!segment->choice.each.empty()) {
      for (int64_t i = count - 1; i >= 0; --i) {
        code_one(i, segment->tables->encode_entries(segment->choice.each[i])[segment->symbols[i]]);
      }
    } else {
      const EncodeEntry* entries = segment->tables->encode_entries(segment->choice.one);
      const uint16_t* symbols = segment->symbols.data();
      // Whole groups of lanes lie between the first symbol of lane 0 and the last of lane lanes
      // - 1.
      const int64_t head = std::min(count, (lanes_ - first % lanes_) % lanes_);
      const int64_t grouped = (count - head) / lanes_ * lanes_;
      for (int64_t i = count - 1; i >= head + grouped; --i) {
        code_one(i, entries[symbols[i]]);
      }
      const auto groups = [&](auto run) {
        out = run(states.data(), symbols + head, grouped, entries, segment->precision, out);
      };
      switch (lanes_) {
        case 1:
          groups(encode_groups<1>);
          break;
        case 2:
          groups(encode_groups<2>);
          break;
        case 4:
          groups(encode_groups<4>);
          break;
        case 8:
          groups(encode_groups<8>);
          break;
        case 16:
          groups(encode_groups<16>);
          break;
        default:
          for (int64_t i = head + grouped - 1; i >= head; --i) {
            code_one(i, entries[symbols[i]]);
          }
      }
      for (int64_t i = head - 1; i >= 0; --i) {
        code_one(i, entries[symbols[i]]);
      }
    }
    next = first;
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
  // that, so repeat until little is left. A group that reads nothing may look at the word behind
  // the last of its own.
  while (true) {
    const auto words_left = static_cast<int64_t>(words_.size() - position_);
    const int64_t groups = std::min((count - i) / lanes_, words_left / lanes_ - 1);
    if (groups <= 0) {
      break;
    }
    const auto run = [&](auto decode) {
      const uint16_t* in = decode(states_.data(), symbols + i, groups, entries, slots, precision,
                                  words_.data() + position_);
      position_ = static_cast<size_t>(in - words_.data());
      i += groups * lanes_;
      return true;
    };
    bool done = false;
    switch (lanes_) {
      case 1:
        done = run(decode_groups<1>);
        break;
      case 2:
        done = run(decode_groups<2>);
        break;
      case 4:
        done = run(decode_groups<4>);
        break;
      case 8:
        done = run(decode_groups<8>);
        break;
      case 16:
        done = run(decode_groups<16>);
        break;
      default:
        break;
    }
    if (!done) {
      break;
    }
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
    const int32_t* above =
        std::upper_bound(row + 1, row + alphabet_size, static_cast<int32_t>(slot));
    const int64_t symbol = above - row - 1;
    const auto start = static_cast<uint32_t>(row[symbol]);
    const auto frequency = static_cast<uint32_t>(row[symbol + 1]) - start;
    state = decode_advance(state, slot, start, frequency, precision);
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
