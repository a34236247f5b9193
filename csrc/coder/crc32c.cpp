// SPDX-License-Identifier: Apache-2.0
#include "coder/crc32c.h"

#include <array>
#include <cstring>

namespace genaccel::coder {
namespace {

constexpr uint32_t kReversedPolynomial = 0x82f63b78u;

constexpr std::array<uint32_t, 256> make_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t value = byte;
    for (int bit = 0; bit < 8; ++bit) {
      value = (value >> 1) ^ ((value & 1) != 0 ? kReversedPolynomial : 0);
    }
    table[byte] = value;
  }
  return table;
}

uint32_t update_portable(const uint8_t* data, size_t size, uint32_t value) {
  static constexpr std::array<uint32_t, 256> table = make_table();
  for (size_t i = 0; i < size; ++i) {
    value = (value >> 8) ^ table[(value ^ data[i]) & 0xff];
  }
  return value;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) uint32_t update_sse42(const uint8_t* data, size_t size,
                                                        uint32_t value) {
  uint64_t wide = value;
  for (; size >= 8; data += 8, size -= 8) {
    uint64_t word;
    std::memcpy(&word, data, sizeof(word));
    wide = __builtin_ia32_crc32di(wide, word);
  }
  value = static_cast<uint32_t>(wide);
  for (; size > 0; ++data, --size) {
    value = __builtin_ia32_crc32qi(value, *data);
  }
  return value;
}
#endif

}  // namespace

uint32_t crc32c(const uint8_t* data, size_t size, uint32_t value) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("sse4.2")) {
    return ~update_sse42(data, size, ~value);
  }
#endif
  return ~update_portable(data, size, ~value);
}

}  // namespace genaccel::coder
