// SPDX-License-Identifier: Apache-2.0
// As much of CUDA as the kernels of csrc use, on the threads of a CPU: a thread each, barriers for
// __syncthreads, and warps that exchange values through memory. Blocks run one after the other. It
// finds wrong indices, reductions and tails without a GPU; not races within a warp.
#pragma once

#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(...)
#define __restrict__
#define __grid_constant__

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct int4 {
  int x, y, z, w;
};
using cudaStream_t = struct CUstream_st*;
using cudaError_t = int;
enum : cudaError_t {
  cudaSuccess,
  cudaErrorInvalidValue,
  cudaErrorInvalidConfiguration,
  cudaErrorAssert,
  cudaErrorECCUncorrectable,
  cudaErrorHardwareStackError,
  cudaErrorIllegalAddress,
  cudaErrorIllegalInstruction,
  cudaErrorInvalidAddressSpace,
  cudaErrorInvalidPc,
  cudaErrorLaunchFailure,
  cudaErrorLaunchTimeout,
  cudaErrorMisalignedAddress
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

namespace on_threads {

inline cudaError_t last_error = cudaSuccess;        // that nobody has asked for yet
inline cudaError_t next_launch_says = cudaSuccess;  // instead of running
inline dim3 last_grid;

}  // namespace on_threads

inline cudaError_t cudaGetLastError() { return std::exchange(on_threads::last_error, cudaSuccess); }
inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorInvalidConfiguration ? "invalid configuration argument" : "other error";
}

inline thread_local dim3 threadIdx;
inline thread_local dim3 blockIdx;

namespace on_threads {

constexpr unsigned kWarp = 32;

struct Warp {
  std::barrier<> barrier{kWarp};
  uint64_t slot[kWarp];
};

inline std::vector<std::unique_ptr<Warp>> warps;
inline std::barrier<>* block;

inline Warp& own_warp() { return *warps[threadIdx.x / kWarp]; }

}  // namespace on_threads

// Blocks of a multiple of kWarp threads.
template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments... arguments) {
  using namespace on_threads;
  last_grid = config->gridDim;
  if (next_launch_says != cudaSuccess) {
    return last_error = std::exchange(next_launch_says, cudaSuccess);
  }
  const dim3 grid = config->gridDim;
  const unsigned threads = config->blockDim.x;
  for (unsigned b = 0; b < grid.x * grid.y; ++b) {
    warps.clear();
    for (unsigned w = 0; w < threads / kWarp; ++w) {
      warps.push_back(std::make_unique<Warp>());
    }
    std::barrier<> all(threads);
    block = &all;
    std::vector<std::thread> running;
    for (unsigned t = 0; t < threads; ++t) {
      running.emplace_back([=, &all] {
        threadIdx = dim3(t);
        blockIdx = dim3(b % grid.x, b / grid.x);
        kernel(arguments...);
        own_warp().barrier.arrive_and_drop();
        all.arrive_and_drop();
      });
    }
    for (std::thread& thread : running) {
      thread.join();
    }
  }
  return cudaSuccess;
}

inline void __syncthreads() { on_threads::block->arrive_and_wait(); }
inline void __syncwarp() { on_threads::own_warp().barrier.arrive_and_wait(); }

template <typename T>
T __shfl_xor_sync(unsigned, T value, int offset) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  on_threads::Warp& warp = on_threads::own_warp();
  const unsigned lane = threadIdx.x % on_threads::kWarp;
  std::memcpy(&warp.slot[lane], &value, sizeof value);
  warp.barrier.arrive_and_wait();
  T other;
  std::memcpy(&other, &warp.slot[lane ^ static_cast<unsigned>(offset)], sizeof other);
  warp.barrier.arrive_and_wait();
  return other;
}

template <typename T>
T __shfl_up_sync(unsigned, T value, int offset) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  on_threads::Warp& warp = on_threads::own_warp();
  const unsigned lane = threadIdx.x % on_threads::kWarp;
  std::memcpy(&warp.slot[lane], &value, sizeof value);
  warp.barrier.arrive_and_wait();
  if (lane >= static_cast<unsigned>(offset)) {
    std::memcpy(&value, &warp.slot[lane - static_cast<unsigned>(offset)], sizeof value);
  }
  warp.barrier.arrive_and_wait();
  return value;
}

inline unsigned __ballot_sync(unsigned, bool holds) {
  unsigned all = holds ? 1u << threadIdx.x % on_threads::kWarp : 0u;
  for (int offset = 1; offset < static_cast<int>(on_threads::kWarp); offset *= 2) {
    all |= __shfl_xor_sync(0xffffffffu, all, offset);
  }
  return all;
}

inline int __ffs(int bits) { return __builtin_ffs(bits); }

inline int __dp4a(int a, int b, int sum) {
  for (int i = 0; i < 32; i += 8) {
    sum += int{static_cast<int8_t>(a >> i)} * int{static_cast<int8_t>(b >> i)};
  }
  return sum;
}
