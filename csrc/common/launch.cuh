// SPDX-License-Identifier: Apache-2.0
// Launch status; for .cu files only.
#pragma once

#include <cuda_runtime.h>

#include "common/status.h"

namespace genaccel {

// The error of the launch just made. It does not wait for the kernel.
inline Status launch_status() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace genaccel
