// SPDX-License-Identifier: Apache-2.0
// How every kernel of this library starts; for .cu files only.
//
// The status of a launch is what the launching call itself returns. cudaGetLastError would return,
// and take away, whatever error some other code in this thread left behind. And where the launch
// did fail, that error is taken away here, so that nobody else finds it either.
#pragma once

#include <cuda_runtime.h>

#include "common/status.h"
#include "common/stream.h"

namespace genaccel {

// Blocks that a grid holds.
constexpr int64_t kMaxBlocks = 2147483647;  // in x
constexpr int64_t kMaxBlockRows = 65535;    // in y

struct Grid {
  int64_t blocks;
  int threads;  // of a block
  Stream stream;
  int64_t rows = 1;  // of blocks
  int64_t shared_bytes = 0;
};

// Errors that a kernel leaves while it runs. The launch that reports one was not its cause: it came
// after.
inline bool is_of_an_earlier_kernel(cudaError_t error) {
  switch (error) {
    case cudaErrorAssert:
    case cudaErrorECCUncorrectable:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalAddress:
    case cudaErrorIllegalInstruction:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorMisalignedAddress:
      return true;
    default:
      return false;
  }
}

// kernel<<<grid>>>(arguments...), which does not wait for the kernel. No blocks: nothing to do.
template <typename... Parameters, typename... Arguments>
Status start(const Grid& grid, void (*kernel)(Parameters...), const Arguments&... arguments) {
  if (grid.blocks == 0 || grid.rows == 0) {
    return nullptr;
  }
  if (grid.blocks < 0 || grid.blocks > kMaxBlocks || grid.rows < 0 || grid.rows > kMaxBlockRows) {
    return "too large for one launch: a grid has at most 2^31 - 1 blocks";
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(grid.blocks), static_cast<unsigned>(grid.rows));
  config.blockDim = dim3(static_cast<unsigned>(grid.threads));
  config.dynamicSmemBytes = static_cast<size_t>(grid.shared_bytes);
  config.stream = grid.stream;
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, arguments...);
  if (error == cudaSuccess) {
    return nullptr;
  }
  cudaGetLastError();
  return is_of_an_earlier_kernel(error) ? "a kernel that was started before on this device failed; "
                                          "with CUDA_LAUNCH_BLOCKING=1 "
                                          "the error appears where it arises"
                                        : cudaGetErrorString(error);
}

}  // namespace genaccel
