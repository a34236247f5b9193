// SPDX-License-Identifier: Apache-2.0
// CRC-32C (Castagnoli polynomial, as in iSCSI, RFC 3720), with the SSE4.2 instruction where there
// is one.
#pragma once

#include <cstddef>
#include <cstdint>

namespace genaccel::coder {

// Checksum of data appended to bytes whose checksum is `value` (0 for none).
uint32_t crc32c(const uint8_t* data, size_t size, uint32_t value);

}  // namespace genaccel::coder
