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
constexpr cudaError_t cudaSuccess = 0;
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return ""; }

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

template <typename Kernel>
struct Launch {
  Kernel kernel;
  dim3 grid;
  unsigned threads;  // a multiple of kWarp

  template <typename... Arguments>
  void operator()(Arguments... arguments) const {
    for (unsigned b = 0; b < grid.x * grid.y; ++b) {
      warps.clear();
      for (unsigned w = 0; w < threads / kWarp; ++w) {
        warps.push_back(std::make_unique<Warp>());
      }
      std::barrier<> all(threads);
      block = &all;
      std::vector<std::thread> running;
      for (unsigned t = 0; t < threads; ++t) {
        running.emplace_back([=, this, &all] {
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
  }
};

// kernel<<<grid, threads, shared_bytes, stream>>> is rewritten to this.
template <typename Kernel>
Launch<Kernel> launch(Kernel kernel, dim3 grid, unsigned threads, int, cudaStream_t) {
  return {kernel, grid, threads};
}

}  // namespace on_threads

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

inline int __dp4a(int a, int b, int sum) {
  for (int i = 0; i < 32; i += 8) {
    sum += int{static_cast<int8_t>(a >> i)} * int{static_cast<int8_t>(b >> i)};
  }
  return sum;
}
