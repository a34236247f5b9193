// SPDX-License-Identifier: Apache-2.0
// A block a sequence. Only rows of nodes that are reached are read, once; what is left of a row
// stands in the result, which the caches hold.
#include <cuda_runtime.h>

#include "common/launch.cuh"
#include "decoding/accept_tree_by_rejection.h"
#include "decoding/block_shared.cuh"

namespace genaccel::decoding {
namespace {

constexpr int kThreads = 256;

struct Block {
  __device__ static int64_t thread() { return static_cast<int64_t>(threadIdx.x); }
  __device__ static constexpr int64_t threads() { return kThreads; }
  template <typename A>
  __device__ A sum(A value) const {
    return block_sum<kThreads>(value);
  }
  template <typename A>
  __device__ A largest(A value) const {
    return block_largest<kThreads>(value);
  }
  __device__ double inclusive_sum(double value) const {
    return block_inclusive_sum<kThreads>(value);
  }
  template <typename A>
  __device__ A value_of(int thread, A value) const {
    return block_value_of(thread, value);
  }
  template <typename F>
  __device__ int64_t from_first(const F& f) const {
    __syncthreads();  // it reads what the others have written
    return block_value_of(0, threadIdx.x == 0 ? f() : int64_t{0});
  }
};

template <typename T>
__global__ void __launch_bounds__(kThreads)
    accept_tree_by_rejection_kernel(const TreeRejection<T> tree) {
  accept_sequence(Block{}, tree, blockIdx.x);
}

}  // namespace

template <typename T>
Status accept_tree_by_rejection_cuda(const TreeRejection<T>& tree, int64_t sequences,
                                     Stream stream) {
  return start({sequences, kThreads, stream}, accept_tree_by_rejection_kernel<T>, tree);
}

template Status accept_tree_by_rejection_cuda<float>(const TreeRejection<float>&, int64_t, Stream);
template Status accept_tree_by_rejection_cuda<double>(const TreeRejection<double>&, int64_t,
                                                      Stream);

}  // namespace genaccel::decoding
