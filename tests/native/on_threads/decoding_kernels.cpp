// SPDX-License-Identifier: Apache-2.0
// The kernels of speculative decoding against the CPU's code: indices to the bit, numbers but for
// the order of their sums. Prints a line for each difference.
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "decoding/accept_tree.h"
#include "decoding/accept_tree_by_rejection.h"
#include "decoding/compact_rows.h"
#include "decoding/draw_keyed.h"
#include "decoding/path_similarity.h"

namespace {

using namespace genaccel::decoding;
using Indices = std::vector<int64_t>;

std::mt19937 random_bits(1);

int64_t below(int64_t size) { return static_cast<int64_t>(random_bits() % size); }

Indices indices(int64_t count, int64_t size) {
  Indices result(static_cast<size_t>(count));
  for (int64_t& index : result) {
    index = below(size);
  }
  return result;
}

template <typename T>
std::vector<T> numbers(int64_t count) {
  std::normal_distribution<double> normal;
  std::vector<T> result(static_cast<size_t>(count));
  for (T& number : result) {
    number = static_cast<T>(2 * normal(random_bits));
  }
  return result;
}

Indices tree(int64_t nodes) {
  Indices parents(static_cast<size_t>(nodes));
  for (int64_t node = 1; node < nodes; ++node) {
    parents[node] = below(node);
  }
  return parents;
}

void expect(bool holds, const char* name, int64_t size) {
  if (!holds) {
    std::printf("%s of %d differs\n", name, static_cast<int>(size));
  }
}

bool is_near(const std::vector<double>& a, const std::vector<double>& b) {
  for (size_t i = 0; i < a.size(); ++i) {
    if (!(std::fabs(a[i] - b[i]) < 1e-6)) {
      return false;
    }
  }
  return true;
}

void walks() {
  constexpr int64_t sequences = 6;
  for (const int64_t nodes : {1, 2, 31, 32, 33, 34, 64, 65, 150}) {
    for (const int64_t length : {int64_t{1}, int64_t{3}, nodes}) {
      const Indices parents = tree(nodes), tokens = indices(sequences * nodes, 2);
      const Indices drawn = indices(sequences * nodes, 2);
      Indices path[2], counts[2];
      for (const int side : {0, 1}) {
        path[side].assign(sequences * length, 77), counts[side].assign(sequences, 77);
        const TreeWalk walk = {parents.data(),      tokens.data(), drawn.data(), path[side].data(),
                               counts[side].data(), nodes,         length};
        side == 0 ? accept_tree_cpu(walk, 0, sequences)
                  : void(accept_tree_cuda(walk, sequences, nullptr));
      }
      expect(path[0] == path[1] && counts[0] == counts[1], "accept_tree", nodes);
    }
  }
}

template <typename T>
void rejections() {
  constexpr int64_t sequences = 3;
  for (const int64_t nodes : {1, 2, 9, 20}) {
    for (const int64_t size : {5, 300}) {
      for (const int kind : {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}) {
        const bool lends = kind % 5 != 0, drafts = kind >= 5;
        const int64_t inner = nodes == 1 ? 1 : nodes - 1;  // the last node has no children
        const int64_t columns = size - 1;
        const Indices parents = tree(nodes), tokens = indices(sequences * nodes, size);
        const Indices neighbours = indices(size * columns, size);
        const std::vector<T> weights = numbers<T>(sequences * nodes * size);
        std::vector<T> draft = numbers<T>(sequences * inner * size);
        for (T& probability : draft) {
          probability = std::exp(probability) / (static_cast<T>(7) * static_cast<T>(size));
        }
        std::vector<double> uniforms(sequences * nodes);
        for (double& uniform : uniforms) {
          uniform = static_cast<double>(random_bits()) / 4294967296.0;
        }
        Indices path[2], counts[2], substituted[2];
        std::vector<T> workspace(sequences * size);
        std::vector<double> left[2];
        for (const int side : {0, 1}) {
          path[side].assign(sequences * nodes, 77), counts[side].assign(sequences, 77);
          substituted[side].assign(sequences, 77);
          std::vector<T> residual(sequences * size, 77);
          const TreeRejection<T> problem = {parents.data(),
                                            tokens.data(),
                                            weights.data(),
                                            uniforms.data(),
                                            lends ? neighbours.data() : nullptr,
                                            drafts ? draft.data() : nullptr,
                                            path[side].data(),
                                            counts[side].data(),
                                            residual.data(),
                                            substituted[side].data(),
                                            workspace.data(),
                                            nodes,
                                            drafts ? inner : 0,
                                            nodes,
                                            size,
                                            size - 1,
                                            lends ? columns : 0,
                                            columns - 1,
                                            kind % 5 == 4 ? 1.5 : 0.3 * (kind % 5),
                                            kind % 5 == 3};
          side == 0 ? accept_tree_by_rejection_cpu(problem, 0, sequences)
                    : void(accept_tree_by_rejection_cuda(problem, sequences, nullptr));
          left[side].assign(residual.begin(), residual.end());
        }
        expect(path[0] == path[1] && counts[0] == counts[1] && substituted[0] == substituted[1] &&
                   is_near(left[0], left[1]),
               "accept_tree_by_rejection", nodes * size);
      }
    }
  }
}

template <typename T>
void draws() {
  constexpr int64_t rows = 5;
  for (const int64_t tokens : {1, 2, 255, 256, 257, 1000}) {
    std::vector<T> weights = numbers<T>(rows * tokens);
    for (int64_t i = 0; i < rows * tokens; ++i) {
      weights[i] = below(3) == 0 || i < tokens ? -static_cast<T>(HUGE_VAL) : weights[i];
    }
    weights.back() = below(2) == 0 ? static_cast<T>(NAN) : weights.back();
    const Indices sequences = indices(rows, 9), positions = indices(rows, 99);
    Indices drawn[2] = {Indices(rows, 77), Indices(rows, 77)};
    for (const int side : {0, 1}) {
      const KeyedDraw<T> draw = {weights.data(),     sequences.data(), positions.data(),
                                 drawn[side].data(), tokens,           -5};
      side == 0 ? draw_keyed_cpu(draw, 0, rows) : void(draw_keyed_cuda(draw, rows, nullptr));
    }
    expect(drawn[0] == drawn[1], "draw_keyed", tokens);
  }
}

template <typename T>
void similarities() {
  constexpr int64_t sets = 3, codes = 9;
  for (const int64_t paths : {0, 1, 2, 43}) {
    for (const int64_t depth : {0, 1, 5}) {
      for (const int64_t channels : {1, 8, 65}) {
        Indices tokens = indices(sets * paths * depth, codes);
        for (int64_t& token : tokens) {
          token = below(4) == 0 ? -1 : token;
        }
        const std::vector<T> book = numbers<T>(codes * channels);
        const std::vector<double> weights(depth, 0.7);
        std::vector<double> found[2];
        for (const int side : {0, 1}) {
          found[side].assign(sets, 77);
          const PathSets<T> problem = {
              tokens.data(), book.data(), weights.data(), found[side].data(),
              paths,         depth,       codes,          channels};
          side == 0 ? path_similarity_cpu(problem, 0, sets)
                    : void(path_similarity_cuda(problem, sets, nullptr));
        }
        expect(is_near(found[0], found[1]), "path_similarity", paths * depth * channels);
      }
    }
  }
}

void compactions() {
  constexpr int64_t batch = 2, heads = 2, rows = 9, moves = 3;
  for (const int64_t bytes : {1, 4, 16, 20, 512, 1040}) {
    for (const int64_t tensors : {1, 70}) {
      const int64_t each = batch * heads * rows * bytes;
      const Indices sources = {2, 3, 7, 1, 8, 8}, starts = {1, 1}, counts = {3, 2};
      std::vector<char> cache[2];
      cache[0].resize(static_cast<size_t>(tensors * each));
      for (char& byte : cache[0]) {
        byte = static_cast<char>(random_bits());
      }
      cache[1] = cache[0];
      const Compaction compaction = {sources.data(), starts.data(), counts.data(), batch,
                                     heads,          rows,          moves,         bytes};
      for (const int side : {0, 1}) {
        std::vector<States> all;
        for (int64_t tensor = 0; tensor < tensors; ++tensor) {
          all.push_back(
              {cache[side].data() + tensor * each, heads * rows * bytes, rows * bytes, bytes});
        }
        if (side == 1) {
          compact_rows_cuda(compaction, all.data(), tensors, nullptr);
        }
        for (int64_t tensor = 0; side == 0 && tensor < tensors; ++tensor) {
          compact_rows_cpu(compaction, all[tensor], 0, batch * heads);
        }
      }
      expect(cache[0] == cache[1], "compact_rows_", bytes);
    }
  }
}

}  // namespace

int main() {
  walks();
  rejections<float>();
  rejections<double>();
  draws<float>();
  draws<double>();
  similarities<float>();
  similarities<double>();
  compactions();
}
