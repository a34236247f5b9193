// SPDX-License-Identifier: Apache-2.0
// The bits of one type as another type, for scalars and vectors, on host and device.
#pragma once

#include "common/host_device.h"

namespace genaccel {

template <typename To, typename From>
GENACCEL_HOST_DEVICE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast keeps the size");
  To to;
  __builtin_memcpy(&to, &from, sizeof(To));
  return to;
}

}  // namespace genaccel
