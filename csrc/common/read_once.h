// SPDX-License-Identifier: Apache-2.0
// A read of memory that another thread may be writing to: the caller's arrays and tensors, since
// the GIL is released. It happens once, so that the value that was checked is the value that is
// used.
#pragma once

#include "common/host_device.h"

namespace genaccel {

template <typename T>
GENACCEL_HOST_DEVICE T read_once(const T* from) {
  return *static_cast<const volatile T*>(from);
}

}  // namespace genaccel
