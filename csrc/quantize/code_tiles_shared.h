// SPDX-License-Identifier: Apache-2.0
// Scores <y, c> - |c|^2 / 2 of rows against tiles of code words on the CPU, by a register tile of 4
// rows by 2 vectors, into a few kilobytes of scratch. For *_cpu.cpp only.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/integer.h"
#include "common/simd.h"

namespace genaccel::quantize::code_tiles {

constexpr int kRows = 4;  // 4 x 2 accumulators leave half of AVX2's 16 registers for operands
constexpr int kVectors = 2;
constexpr int kPanel = 32;  // rows that walk over a tile while it is in cache

template <typename T>
constexpr int kBlock = kVectors * simd::kLanes<T>;  // code words of a register tile
template <typename T>
constexpr int kTile = 16 * kBlock<T>;  // 32 KiB of code words for 32 channels

template <typename T>
int64_t tiles(int64_t num_codes) {
  return ceil_div(num_codes, kTile<T>);
}

template <typename T>
struct Scores {
  alignas(32) T of[kRows][kTile<T>];
};

// The packed form of a codebook: blocks [padded / kBlock, dim, kBlock], for scores; half squared
// norms [padded]; rows [padded, padded_dim], for sums of code words. Padding is zero and has the
// score -inf.
template <typename T>
struct Codes {
  int64_t dim, padded, padded_dim;
  const T* blocks;
  const T* half_norms;
  const T* rows;

  Codes(const T* packed, int64_t num_codes, int64_t channels)
      : dim(channels),
        padded(ceil_div(num_codes, kBlock<T>) * kBlock<T>),
        padded_dim(ceil_div(channels, kBlock<T>) * kBlock<T>),
        blocks(packed),
        half_norms(packed + padded * dim),
        rows(half_norms + padded) {}

  int tile_size(int64_t first) const {
    return static_cast<int>(padded - first < kTile<T> ? padded - first : kTile<T>);
  }
};

template <typename T>
int64_t packed_size(int64_t num_codes, int64_t dim) {
  const int64_t padded = ceil_div(num_codes, kBlock<T>) * kBlock<T>;
  return padded * (dim + 1 + ceil_div(dim, kBlock<T>) * kBlock<T>);
}

template <typename T>
void pack(const T* codebook, T* packed, int64_t num_codes, int64_t dim) {
  const Codes<T> codes(packed, num_codes, dim);
  T* half_norms = packed + codes.padded * dim;
  T* rows = half_norms + codes.padded;
  for (int64_t k = 0; k < codes.padded; ++k) {
    const bool exists = k < num_codes;
    T* block = packed + k / kBlock<T> * kBlock<T> * dim + k % kBlock<T>;
    T squared_norm = 0;
    for (int64_t c = 0; c < codes.padded_dim; ++c) {
      const T value = exists && c < dim ? codebook[k * dim + c] : T(0);
      squared_norm += value * value;
      rows[k * codes.padded_dim + c] = value;
      if (c < dim) {
        block[c * kBlock<T>] = value;
      }
    }
    half_norms[k] = exists ? squared_norm / 2 : static_cast<T>(INFINITY);
  }
}

// Scores of `count` <= kRows rows against code words [first, first + tile size); a short group
// repeats its first row.
template <typename Isa, typename T>
GENACCEL_HOST_DEVICE void score(const T* rows, int count, const Codes<T>& codes, int64_t first,
                                Scores<T>& scores) {
  using V = simd::Vector<T>;
  constexpr int lanes = simd::kLanes<T>;
  const T* row[kRows];
  for (int r = 0; r < kRows; ++r) {
    row[r] = rows + (r < count ? r : 0) * codes.dim;
  }
  const int size = codes.tile_size(first);
  for (int start = 0; start < size; start += kBlock<T>) {
    const T* block = codes.blocks + (first + start) * codes.dim;
    V dot[kRows][kVectors] = {};
    for (int64_t c = 0; c < codes.dim; ++c) {
      V code[kVectors];
      for (int v = 0; v < kVectors; ++v) {
        code[v] = simd::load<Isa>(block + c * kBlock<T> + v * lanes);
      }
      for (int r = 0; r < kRows; ++r) {
        for (int v = 0; v < kVectors; ++v) {
          dot[r][v] += row[r][c] * code[v];
        }
      }
    }
    for (int v = 0; v < kVectors; ++v) {
      const V half_norm = simd::load<Isa>(codes.half_norms + first + start + v * lanes);
      for (int r = 0; r < kRows; ++r) {
        simd::store<Isa>(&scores.of[r][start + v * lanes], dot[r][v] - half_norm);
      }
    }
  }
}

}  // namespace genaccel::quantize::code_tiles
