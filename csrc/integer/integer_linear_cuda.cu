// SPDX-License-Identifier: Apache-2.0
// A block of 256 threads makes 64 rows by 64 outputs, 4 by 4 a thread, with 4 products per
// instruction on tiles of 64 inputs in shared memory.
#include <cuda_runtime.h>

#include "common/integer.h"
#include "common/launch.cuh"
#include "common/pack.cuh"
#include "integer/integer_linear.h"

namespace genaccel::integer {
namespace {

constexpr int kSide = 16;  // threads of a block in either direction
constexpr int kEach = 4;   // rows, and outputs, of a thread
constexpr int kTile = kSide * kEach;
constexpr int kInputs = 64;  // of a tile
constexpr int kWords = kInputs / 4;
constexpr int kPack = kPackWidth<int8_t>;
constexpr int kPacks = kInputs / kPack;  // of a row of a tile
static_assert(kTile * kPacks == kSide * kSide, "each thread loads one pack of a tile");

// Rows [first, first + kTile) of a matrix, 4 bytes a word, zeros outside. packed: rows are made of
// whole packs.
__device__ void load_tile(const int8_t* matrix, int64_t rows, int64_t columns, bool packed,
                          int64_t first_row, int64_t first_column, int (*tile)[kWords + 1]) {
  if (packed) {
    const int line = threadIdx.x / kPacks;
    const int place = threadIdx.x % kPacks;
    const int64_t row = first_row + line;
    const int64_t column = first_column + place * kPack;
    int4 words = {0, 0, 0, 0};
    if (row < rows && column < columns) {
      words = *reinterpret_cast<const int4*>(matrix + row * columns + column);
    }
    int* to = &tile[line][place * (kPack / 4)];
    to[0] = words.x;
    to[1] = words.y;
    to[2] = words.z;
    to[3] = words.w;
    return;
  }
  for (int i = threadIdx.x; i < kTile * kWords; i += kSide * kSide) {
    const int64_t row = first_row + i / kWords;
    const int64_t column = first_column + 4 * (i % kWords);
    uint32_t word = 0;
    for (int b = 0; b < 4; ++b) {
      if (row < rows && column + b < columns) {
        word |= static_cast<uint32_t>(static_cast<uint8_t>(matrix[row * columns + column + b]))
                << (8 * b);
      }
    }
    tile[i / kWords][i % kWords] = static_cast<int>(word);
  }
}

template <typename T>
__global__ void __launch_bounds__(kSide* kSide)
    integer_linear_kernel(Linear<T> p, int64_t rows, int64_t row_tiles, bool packed) {
  __shared__ int x[kTile][kWords + 1];  // one word more: threads of a warp hit different banks
  __shared__ int weight[kTile][kWords + 1];
  const int64_t first_row = blockIdx.x % row_tiles * kTile;
  const int64_t first_output = blockIdx.x / row_tiles * kTile;
  const int column = threadIdx.x % kSide;
  const int line = threadIdx.x / kSide;
  int sum[kEach][kEach] = {};
  for (int64_t first = 0; first < p.inputs; first += kInputs) {
    __syncthreads();  // the tile before has been read
    load_tile(p.x, rows, p.inputs, packed, first_row, first, x);
    load_tile(p.weight, p.outputs, p.inputs, packed, first_output, first, weight);
    __syncthreads();
    for (int w = 0; w < kWords; ++w) {
      int a[kEach];
      int b[kEach];
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        a[i] = x[line + i * kSide][w];
        b[i] = weight[column + i * kSide][w];
      }
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
#pragma unroll
        for (int j = 0; j < kEach; ++j) {
          sum[i][j] = __dp4a(a[i], b[j], sum[i][j]);
        }
      }
    }
  }
  for (int j = 0; j < kEach; ++j) {
    const int64_t output = first_output + column + j * kSide;
    if (output >= p.outputs) {
      continue;
    }
    const int32_t bias = p.bias == nullptr ? 0 : p.bias[output];
    for (int i = 0; i < kEach; ++i) {
      const int64_t row = first_row + line + i * kSide;
      if (row < rows) {
        p.out[row * p.outputs + output] =
            requantized<T>(with_bias(sum[i][j], bias), p.multiplier[output], p.shift);
      }
    }
  }
}

}  // namespace

template <typename T>
Status integer_linear_cuda(const Linear<T>& problem, int64_t rows, Stream stream) {
  const int64_t row_tiles = ceil_div(rows, kTile);
  const int64_t blocks = row_tiles * ceil_div(problem.outputs, kTile);
  const bool packed = fits_packs<int8_t>(problem.inputs, problem.x, problem.weight);
  return start({blocks, kSide * kSide, stream}, integer_linear_kernel<T>, problem, rows, row_tiles,
               packed);
}

template Status integer_linear_cuda<int8_t>(const Linear<int8_t>&, int64_t, Stream);
template Status integer_linear_cuda<int16_t>(const Linear<int16_t>&, int64_t, Stream);
template Status integer_linear_cuda<int32_t>(const Linear<int32_t>&, int64_t, Stream);

}  // namespace genaccel::integer
