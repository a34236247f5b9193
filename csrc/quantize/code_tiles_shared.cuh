// SPDX-License-Identifier: Apache-2.0
// Scores <y, c> - |c|^2 / 2 of rows against tiles of code words on the GPU; for .cu files only. A
// block walks over tiles of 32 rows by 64 or 128 code words; a thread owns 4 rows by 4 or 8 code
// words of a tile. Plain FMAs in float: for 32 channels the scores take as long as one matrix of
// their size takes to arrive (1.4 GFLOP and 88 MB for 5376 x 4096: some 20 microseconds each on a
// Hopper), and tensor cores would round their factors to 11 bits.
#pragma once

#include <cuda_runtime.h>

#include "common/half.h"
#include "common/integer.h"
#include "common/launch.cuh"
#include "common/pack.cuh"
#include "common/reduce.cuh"

namespace genaccel::quantize::code_tiles {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kColumns = 16;  // threads side by side over the code words of a row
constexpr int kOwnRows = 4;
constexpr int kTileRows = kThreads / kColumns * kOwnRows;
constexpr int kChannels = kWarpSize;  // of a tile: a lane each where sums of rows are made
constexpr int kQuad = 4;
// Shared rows are this much longer than their content: quads stay aligned, and lanes that read the
// same quad of successive rows reach different banks.
constexpr int kPad = kQuad;
constexpr int kWantedBlocks = 1024;  // some 8 for each of Hopper's 132 multiprocessors

// Blocks that a multiprocessor should hold at once: a bound on registers, just above what spills.
template <typename T>
constexpr int kResident = sizeof(T) == 4 ? 3 : 2;

template <typename T>
constexpr int kGroups = 8 / static_cast<int>(sizeof(T));  // quads of code words a thread owns
template <typename T>
constexpr int kOwnCodes = kQuad * kGroups<T>;
template <typename T>
constexpr int kTileCodes = kColumns * kOwnCodes<T>;

template <typename T>
using Quad = Pack<T, kQuad>;

template <typename T>
__device__ __forceinline__ Quad<T>& quad(T* at) {
  return *reinterpret_cast<Quad<T>*>(at);
}
template <typename T>
__device__ __forceinline__ const Quad<T>& quad(const T* at) {
  return *reinterpret_cast<const Quad<T>*>(at);
}

__device__ __forceinline__ float power_of_two(float x) { return exp2f(x); }
__device__ __forceinline__ double power_of_two(double x) { return exp2(x); }

// How a walk is cut into parts, which blocks take on side by side: row y of the grid a part.
struct Cut {
  int64_t tiles;
  int64_t tiles_per_part;
  int64_t parts;

  Cut(int64_t all_tiles, int64_t other_blocks) : tiles(all_tiles) {
    const int64_t wanted = ceil_div(kWantedBlocks, other_blocks > 0 ? other_blocks : 1);
    tiles_per_part = ceil_div(tiles, wanted < tiles ? wanted : (tiles > 0 ? tiles : 1));
    parts = tiles > 0 ? ceil_div(tiles, tiles_per_part) : 0;
  }

  Grid grid(int64_t other_blocks, Stream stream) const {
    return {other_blocks, kThreads, stream, parts};
  }

  // The tiles of this block.
  __device__ int64_t begin() const { return blockIdx.y * tiles_per_part; }
  __device__ int64_t end() const {
    const int64_t bound = begin() + tiles_per_part;
    return bound < tiles ? bound : tiles;
  }
};

template <typename T>
struct Geometry {
  int64_t row_tiles, code_tiles, padded_codes;
  Cut over_codes, over_rows;

  Geometry(int64_t rows, int64_t num_codes)
      : row_tiles(ceil_div(rows, kTileRows)),
        code_tiles(ceil_div(num_codes, kTileCodes<T>)),
        padded_codes(code_tiles * kTileCodes<T>),
        over_codes(code_tiles, row_tiles),
        over_rows(row_tiles, code_tiles) {}

  int64_t packed_size(int64_t dim) const { return padded_codes * (dim + 1); }
};

inline Grid thread_each(int64_t count, Stream stream) {
  return {ceil_div(count, kThreads), kThreads, stream};
}

// Whether rows of this many elements can be read four at a time: a view can start anywhere.
template <typename Z, typename... Pointers>
bool fits_quads(int64_t row_length, const Z* first, const Pointers*... others) {
  const auto fits = [](const Z* pointer) {
    return reinterpret_cast<uintptr_t>(pointer) % sizeof(Quad<Z>) == 0;
  };
  return row_length % kQuad == 0 && fits(first) && (fits(others) && ...);
}

// packed [dim, padded] and then half squared norms [padded]; padding has the score -inf.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    pack_codes_kernel(const T* __restrict__ codebook, T* __restrict__ packed, int64_t num_codes,
                      int64_t padded, int64_t dim) {
  const int64_t k = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (k >= padded) {
    return;
  }
  T squared_norm = 0;
  for (int64_t c = 0; c < dim; ++c) {
    const T value = k < num_codes ? codebook[k * dim + c] : T(0);
    squared_norm += value * value;
    packed[c * padded + k] = value;
  }
  packed[dim * padded + k] = k < num_codes ? squared_norm / 2 : static_cast<T>(INFINITY);
}

template <typename T>
Status pack_codes(const T* codebook, T* packed, int64_t num_codes, int64_t dim, Stream stream) {
  const int64_t padded = ceil_div(num_codes, kTileCodes<T>) * kTileCodes<T>;
  return start(thread_each(padded, stream), pack_codes_kernel<T>, codebook, packed, num_codes,
               padded, dim);
}

// What every kernel reads; by value.
template <typename T, typename Z>
struct Problem {
  const T* features;
  const T* packed;
  const Z* logits;
  int64_t rows, num_codes, padded_codes, dim;
  T scale;
  bool has_quads;  // logits can be read, and their gradient written, four at a time
};

template <typename T>
struct Tile {
  alignas(32) T row[kChannels][kTileRows + kPad];
  alignas(32) T code[kChannels][kTileCodes<T> + kPad];
};

// A thread's part of a tile.
template <typename T>
using Own = T[kOwnRows][kOwnCodes<T>];

__device__ __forceinline__ int own_row(int i) { return threadIdx.x / kColumns * kOwnRows + i; }
template <typename T>
__device__ __forceinline__ int own_code(int j) {
  return j / kQuad * (kColumns * kQuad) + threadIdx.x % kColumns * kQuad + j % kQuad;
}

template <typename T, typename Z>
__device__ __forceinline__ void stage_rows(Tile<T>& tile, const Problem<T, Z>& problem,
                                           int64_t first_row, int64_t first_channel) {
  for (int i = threadIdx.x; i < kTileRows * kChannels; i += kThreads) {
    const int r = i / kChannels;
    const int c = i % kChannels;
    const bool inside = first_row + r < problem.rows && first_channel + c < problem.dim;
    tile.row[c][r] =
        inside ? problem.features[(first_row + r) * problem.dim + first_channel + c] : T(0);
  }
}

template <typename T, typename Z>
__device__ __forceinline__ void stage_codes(Tile<T>& tile, const Problem<T, Z>& problem,
                                            int64_t first_code, int64_t first_channel) {
  constexpr int quads = kTileCodes<T> / kQuad;
  for (int i = threadIdx.x; i < quads * kChannels; i += kThreads) {
    const int c = i / quads;
    const int k = i % quads * kQuad;
    Quad<T> codes = {};
    if (first_channel + c < problem.dim) {
      codes = quad(problem.packed + (first_channel + c) * problem.padded_codes + first_code + k);
    }
    quad(&tile.code[c][k]) = codes;
  }
}

// Scores of a thread's part of a tile. What is already there from the tile before is not staged
// again. On return the last channels of both sides are staged.
template <typename T, typename Z>
__device__ __forceinline__ void score_tile(Tile<T>& tile, const Problem<T, Z>& problem,
                                           int64_t first_row, int64_t first_code, bool has_rows,
                                           bool has_codes, Own<T>& score) {
  const bool in_one = problem.dim <= kChannels;
#pragma unroll
  for (int i = 0; i < kOwnRows; ++i) {
#pragma unroll
    for (int j = 0; j < kOwnCodes<T>; ++j) {
      score[i][j] = 0;
    }
  }
  for (int64_t channel = 0; channel < problem.dim; channel += kChannels) {
    __syncthreads();  // what was staged has been read
    if (!(in_one && has_rows)) {
      stage_rows(tile, problem, first_row, channel);
    }
    if (!(in_one && has_codes)) {
      stage_codes(tile, problem, first_code, channel);
    }
    __syncthreads();
#pragma unroll 8
    for (int c = 0; c < kChannels; ++c) {
      const Quad<T> y = quad(&tile.row[c][own_row(0)]);
#pragma unroll
      for (int g = 0; g < kGroups<T>; ++g) {
        const Quad<T> code = quad(&tile.code[c][own_code<T>(g * kQuad)]);
#pragma unroll
        for (int i = 0; i < kOwnRows; ++i) {
#pragma unroll
          for (int j = 0; j < kQuad; ++j) {
            score[i][g * kQuad + j] += y.value[i] * code.value[j];
          }
        }
      }
    }
  }
  const T* half_norms = problem.packed + problem.dim * problem.padded_codes + first_code;
#pragma unroll
  for (int g = 0; g < kGroups<T>; ++g) {
    const Quad<T> half_norm = quad(half_norms + own_code<T>(g * kQuad));
#pragma unroll
    for (int j = 0; j < kQuad; ++j) {
#pragma unroll
      for (int i = 0; i < kOwnRows; ++i) {
        score[i][g * kQuad + j] -= half_norm.value[j];
      }
    }
  }
}

// Logits of a thread's part of a tile, asked for before the scores so that they arrive meanwhile.
template <typename T, typename Z>
struct OwnLogits {
  Quad<Z> of[kOwnRows][kGroups<T>];

  __device__ __forceinline__ void load(const Problem<T, Z>& problem, int64_t first_row,
                                       int64_t first_code) {
#pragma unroll
    for (int i = 0; i < kOwnRows; ++i) {
      const int64_t n = first_row + own_row(i);
#pragma unroll
      for (int g = 0; g < kGroups<T>; ++g) {
        const int64_t k = first_code + own_code<T>(g * kQuad);
        const Z* from = problem.logits + n * problem.num_codes + k;
        of[i][g] = {};
        if (n < problem.rows && problem.has_quads && k < problem.num_codes) {
          of[i][g] = quad(from);
        } else if (n < problem.rows) {
#pragma unroll
          for (int j = 0; j < kQuad; ++j) {
            if (k + j < problem.num_codes) {
              of[i][g].value[j] = from[j];
            }
          }
        }
      }
    }
  }

  __device__ __forceinline__ T at(int i, int j) const { return of[i][j / kQuad][j % kQuad]; }
};

}  // namespace genaccel::quantize::code_tiles
