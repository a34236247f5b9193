// SPDX-License-Identifier: Apache-2.0
// Streams of both coders: good ones, damaged ones, and tables, symbols and sizes that nobody should
// give.
#include <algorithm>
#include <memory>

#include "coder/byte_rans.h"
#include "coder/cdf_tables.h"
#include "coder/crc32c.h"
#include "coder/rans.h"
#include "inputs.h"

namespace hostile {

std::vector<int32_t> valid_rows(Random& random, int64_t rows, int64_t alphabet, int precision) {
  const int64_t free_slots = (int64_t{1} << precision) - alphabet;
  std::vector<int32_t> all;
  std::vector<int64_t> cuts(alphabet + 1);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t& cut : cuts) {
      cut = random.between(0, free_slots);
    }
    cuts.front() = 0;
    cuts.back() = free_slots;
    std::sort(cuts.begin(), cuts.end());
    for (int64_t s = 0; s <= alphabet; ++s) {
      all.push_back(static_cast<int32_t>(cuts[s] + s));
    }
  }
  return all;
}

namespace {

using genaccel::coder::CdfTables;
using genaccel::coder::StreamError;
using genaccel::coder::TableChoice;

enum class Coding { kOneTable, kTableEach, kOwnRows, kBytes };

struct Message {
  Coding coding;
  int lanes;
  int precision;
  int64_t alphabet;
  int64_t tables;             // of rows
  std::vector<int32_t> rows;  // [tables, alphabet + 1]; for kOwnRows and kBytes a row each symbol
  TableChoice choice;
  std::vector<int32_t> symbols;

  int64_t count() const { return static_cast<int64_t>(symbols.size()); }
};

Message random_message(Random& random) {
  Message m;
  m.coding = random.pick({Coding::kOneTable, Coding::kTableEach, Coding::kOwnRows, Coding::kBytes});
  m.lanes = static_cast<int>(random.one_in(3) ? random.between(1, 64)
                                              : random.pick<int64_t>({1, 2, 4, 8, 16}));
  m.precision = static_cast<int>(random.one_in(2) ? 16 : random.between(1, 16));
  const int64_t largest = int64_t{1} << std::min(m.precision, random.one_in(50) ? 11 : 6);
  m.alphabet = random.one_in(8) ? largest : random.between(1, largest);
  const int64_t count = random.one_in(10) ? random.between(0, 1200) : random.between(0, 60);
  const bool own = m.coding == Coding::kOwnRows || m.coding == Coding::kBytes;
  m.tables = own ? count : random.between(1, 5);
  m.rows = valid_rows(random, m.tables, m.alphabet, m.precision);
  m.symbols.resize(count);
  for (int32_t& symbol : m.symbols) {
    symbol = static_cast<int32_t>(random.between(0, m.alphabet - 1));
  }
  m.choice.one = random.between(0, m.tables > 0 ? m.tables - 1 : 0);
  for (int64_t i = 0; m.coding == Coding::kTableEach && i < count; ++i) {
    m.choice.each.push_back(static_cast<uint16_t>(random.between(0, m.tables - 1)));
  }
  return m;
}

std::vector<uint8_t> encoded(const Message& m) {
  if (m.coding == Coding::kBytes) {
    genaccel::coder::ByteEncoder encoder;
    encoder.push_cdfs(m.symbols.data(), m.count(), m.rows.data(), m.alphabet, m.precision);
    return encoder.finish();
  }
  genaccel::coder::Encoder encoder(m.lanes);
  if (m.coding == Coding::kOwnRows) {
    encoder.push_cdfs(m.symbols.data(), m.count(), m.rows.data(), m.alphabet, m.precision);
  } else {
    encoder.push(m.symbols.data(), m.count(),
                 std::make_shared<CdfTables>(m.rows.data(), m.tables, m.alphabet, m.precision),
                 m.choice);
  }
  return encoder.finish();
}

// What a decoder makes of a stream; throws if that is nothing.
std::vector<int32_t> decoded(const Message& m, const std::vector<uint8_t>& stream) {
  std::vector<int32_t> symbols(m.count());
  if (m.coding == Coding::kBytes) {
    genaccel::coder::ByteDecoder decoder(stream.data(), stream.size());
    decoder.pull_cdfs(symbols.data(), m.count(), m.rows.data(), m.alphabet, m.precision);
    decoder.finish();
    return symbols;
  }
  genaccel::coder::Decoder decoder(stream.data(), stream.size(), m.lanes);
  if (m.coding == Coding::kOwnRows) {
    decoder.pull_cdfs(symbols.data(), m.count(), m.rows.data(), m.alphabet, m.precision);
  } else {
    const CdfTables tables(m.rows.data(), m.tables, m.alphabet, m.precision);
    const int64_t first = m.choice.each.empty() ? m.count() / 3 : m.count();  // in two pieces
    decoder.pull(symbols.data(), first, tables, m.choice);
    decoder.pull(symbols.data() + first, m.count() - first, tables, m.choice);
  }
  require(decoder.bytes_read() <= stream.size(), "a decoder read more than there is");
  decoder.finish();
  return symbols;
}

void damage(Random& random, std::vector<uint8_t>& stream) {
  const auto size = static_cast<int64_t>(stream.size());
  switch (random.between(0, 4)) {
    case 0:
      stream.resize(random.between(0, size));
      break;
    case 1:
      stream.resize(size + random.between(1, 40), static_cast<uint8_t>(random.bits()));
      break;
    case 2:
      stream.assign(random.between(0, 2 * size), random.pick<uint8_t>({0, 1, 0x80, 0xff}));
      break;
    case 3:
      for (uint8_t& byte : stream) {
        byte = static_cast<uint8_t>(random.bits());
      }
      break;
    default:
      for (int64_t i = random.between(0, 4); i >= 0 && size > 0; --i) {
        stream[random.between(0, size - 1)] ^= static_cast<uint8_t>(1 << random.between(0, 7));
      }
  }
  stream.shrink_to_fit();  // so that the memory ends where the stream does
}

// Rows, symbols, tables or sizes that are out of range in some place.
void spoil(Random& random, Message& m) {
  const auto somewhere = [&random](size_t size) {
    return random.between(0, static_cast<int64_t>(size) - 1);
  };
  switch (random.between(0, 3)) {
    case 0:
      if (!m.rows.empty()) {
        m.rows[somewhere(m.rows.size())] = random.value<int32_t>();
      }
      break;
    case 1:
      if (!m.rows.empty()) {  // a neighbour's value, which makes an empty interval
        const int64_t at = somewhere(m.rows.size());
        m.rows[at] = m.rows[at > 0 ? at - 1 : 0];
      }
      break;
    case 2:
      if (!m.symbols.empty()) {
        m.symbols[somewhere(m.symbols.size())] =
            random.one_in(2) ? static_cast<int32_t>(m.alphabet) : random.value<int32_t>();
      }
      break;
    default:
      if (m.choice.each.empty()) {
        m.choice.one = random.pick<int64_t>({-1, m.tables, INT64_MIN, INT64_MAX, 65536});
      } else {
        m.choice.each[somewhere(m.choice.each.size())] =
            static_cast<uint16_t>(random.pick<int64_t>({m.tables, 65535}));
      }
  }
}

void refused_sizes(Random& random, Tally& tally) {
  const std::vector<int32_t> row = {0, 1, 2};
  try {
    const CdfTables tables(row.data(), random.pick<int64_t>({1, 0, -1, 65536, INT64_MIN}),
                           random.pick<int64_t>({2, 0, -1, 65537, INT64_MIN}),
                           random.pick<int>({1, 0, -1, 17, 32, INT32_MIN, INT32_MAX}));
    require(tables.precision() == 1, "tables of impossible sizes were made");
    tally.count("sizes", "accepted");
  } catch (const std::invalid_argument&) {
    tally.count("sizes", "refused");
  }
  try {
    genaccel::coder::Encoder encoder(random.pick({64, 0, -1, 65, INT32_MIN, INT32_MAX}));
    tally.count("lanes", "accepted");
  } catch (const std::invalid_argument&) {
    tally.count("lanes", "refused");
  }
}

void checksum(Random& random, Tally& tally) {
  Array<uint8_t> bytes(random, random.between(0, 100));
  bytes.fill(random);
  const auto size = static_cast<size_t>(bytes.size());
  const auto first = static_cast<size_t>(random.between(0, bytes.size()));
  const uint32_t halves = genaccel::coder::crc32c(bytes.data() + first, size - first,
                                                  genaccel::coder::crc32c(bytes.data(), first, 0));
  require(halves == genaccel::coder::crc32c(bytes.data(), size, 0), "a checksum is not additive");
  tally.count("checksum", "equal");
}

}  // namespace

void code_input(Random& random, Tally& tally, Digest& digest) {
  if (random.one_in(40)) {
    refused_sizes(random, tally);
    return checksum(random, tally);
  }
  Message message = random_message(random);
  std::vector<uint8_t> stream = encoded(message);
  digest.add(stream.data(), static_cast<int64_t>(stream.size()));
  require(decoded(message, stream) == message.symbols, "a stream decodes to other symbols");
  tally.count("stream", "decoded");

  const bool is_damaged = random.one_in(2);
  const char* kind = is_damaged ? "damaged stream" : "hostile tables";
  const std::vector<int32_t> symbols = message.symbols;
  is_damaged ? damage(random, stream) : spoil(random, message);
  try {
    const std::vector<int32_t> found = decoded(message, stream);
    require(std::all_of(found.begin(), found.end(),
                        [&](int32_t s) { return s >= 0 && s < message.alphabet; }),
            "a decoder made a symbol that does not exist");
    tally.count(kind, "decoded");
  } catch (const StreamError&) {
    tally.count(kind, "stream refused");
  } catch (const std::invalid_argument&) {
    tally.count(kind, "arguments refused");
  }
  if (!is_damaged) {
    try {
      stream = encoded(message);
      require(decoded(message, stream) == message.symbols, "what was accepted is not decoded");
      tally.count(kind, "encoded");
    } catch (const std::invalid_argument&) {
      tally.count(kind, "encoding refused");
    }
  }
}

}  // namespace hostile
