// SPDX-License-Identifier: Apache-2.0
// The ops of speculative decoding: trees that are none, rows that do not exist, numbers that are
// none.
#include <algorithm>
#include <cmath>

#include "decoding/accept_tree.h"
#include "decoding/accept_tree_by_rejection.h"
#include "decoding/compact_rows.h"
#include "decoding/draw_keyed.h"
#include "decoding/path_similarity.h"
#include "inputs.h"

namespace hostile {
namespace {

using namespace genaccel;

// Parents of a tree, or now and then anything.
void any_parents(Random& random, Array<int64_t>& parents) {
  for (int64_t node = 0; node < parents.size(); ++node) {
    parents[node] = random.one_in(8) ? random.value<int64_t>() : random.between(0, node);
  }
}

void require_path(Array<int64_t>& path, Array<int64_t>& counts, int64_t nodes, const char* op) {
  const int64_t length = counts.size() == 0 ? 0 : path.size() / counts.size();
  for (int64_t i = 0; i < path.size(); ++i) {
    const int64_t at = i % length, count = counts[i / length];
    require(count >= 1 && count <= length, op);
    require(at < count ? path[i] < nodes && (at == 0 ? path[i] == 0 : path[i] > path[i - 1])
                       : path[i] == -1,
            op);
  }
}

void accept_tree(Random& random, Digest& digest) {
  const int64_t sequences = random.between(0, 4), nodes = some(random, 9, 70);
  const int64_t length = random.between(1, nodes + 1);
  Array<int64_t> parents(random, nodes), tokens(random, sequences * nodes);
  Array<int64_t> drawn(random, sequences * nodes), path(random, sequences * length);
  Array<int64_t> counts(random, sequences);
  any_parents(random, parents), tokens.fill(random, 1), drawn.fill(random, 1);
  const decoding::TreeWalk walk = {parents.data(), tokens.data(), drawn.data(), path.data(),
                                   counts.data(),  nodes,         length};
  in_parts(random, sequences, [&](int64_t b, int64_t e) { decoding::accept_tree_cpu(walk, b, e); });
  require_path(path, counts, nodes, "accept_tree");
  digest.add(path.data(), path.size());
}

template <typename T>
void accept_tree_by_rejection(Random& random) {
  const int64_t sequences = random.between(0, 3), nodes = some(random, 9, 30);
  const int64_t length = random.between(1, nodes + 1), size = some(random, 9, 60);
  const int64_t columns = random.between(0, 6), codes = random.between(0, size);
  Array<int64_t> parents(random, nodes), tokens(random, sequences * nodes);
  Array<int64_t> neighbours(random, codes * columns), path(random, sequences * length);
  Array<int64_t> counts(random, sequences), substituted(random, sequences);
  const int64_t inner = random.between(1, nodes);
  Array<T> weights(random, sequences * nodes * size), draft(random, sequences * inner * size);
  Array<T> residual(random, sequences * size), workspace(random, sequences * size);
  Array<double> uniforms(random, sequences * nodes);
  any_parents(random, parents), tokens.fill(random), neighbours.fill(random, 2 * size);
  weights.fill(random), draft.fill(random), uniforms.fill(random);
  const bool lends = random.one_in(2), drafts = random.one_in(2);
  const decoding::TreeRejection<T> tree = {parents.data(),
                                           tokens.data(),
                                           weights.data(),
                                           uniforms.data(),
                                           lends ? neighbours.data() : nullptr,
                                           drafts ? draft.data() : nullptr,
                                           path.data(),
                                           counts.data(),
                                           residual.data(),
                                           substituted.data(),
                                           drafts ? workspace.data() : nullptr,
                                           nodes,
                                           drafts ? inner : 0,
                                           length,
                                           size,
                                           codes,
                                           lends ? columns : 0,
                                           random.between(0, columns),
                                           random.pick({0.0, 0.3, 1.0, 1.5, 1e300}),
                                           random.one_in(2)};
  in_parts(random, sequences,
           [&](int64_t b, int64_t e) { decoding::accept_tree_by_rejection_cpu(tree, b, e); });
  require_path(path, counts, nodes, "accept_tree_by_rejection");
  for (int64_t i = 0; i < sequences; ++i) {
    require(substituted[i] >= 0 && substituted[i] < counts[i], "accept_tree_by_rejection");
  }
}

void compact_rows(Random& random, Digest& digest) {
  const int64_t batch = random.between(0, 3), heads = random.between(1, 3);
  const int64_t rows = random.between(1, 12), moves = random.between(0, 5);
  const int64_t bytes = some(random, 9, 80);
  Array<int64_t> sources(random, batch * moves), starts(random, batch), counts(random, batch);
  Array<int8_t> states(random, batch * heads * rows * bytes);
  states.fill(random), sources.fill(random, 12), starts.fill(random, 12), counts.fill(random, 6);
  if (random.one_in(3)) {
    starts.fill(random), counts.fill(random), sources.fill(random);
  }
  std::vector<int8_t> expected(states.data(), states.data() + states.size());
  for (int64_t head = 0; head < batch * heads; ++head) {
    const int64_t sequence = head / heads;
    for (int64_t k = 0; k < std::min(moves, counts[sequence]); ++k) {
      const int64_t source = sources[sequence * moves + k];
      const bool is_there = starts[sequence] < rows - k && starts[sequence] >= -k;
      if (is_there && source >= 0 && source < rows) {
        const auto first = expected.begin() + head * rows * bytes;
        std::copy_n(first + source * bytes, bytes, first + (starts[sequence] + k) * bytes);
      }
    }
  }
  const decoding::Compaction compaction = {sources.data(), starts.data(), counts.data(), batch,
                                           heads,          rows,          moves,         bytes};
  const decoding::States tensor = {reinterpret_cast<char*>(states.data()), heads * rows * bytes,
                                   rows * bytes, bytes};
  in_parts(random, batch * heads,
           [&](int64_t b, int64_t e) { decoding::compact_rows_cpu(compaction, tensor, b, e); });
  require(std::equal(expected.begin(), expected.end(), states.data()), "compact_rows_");
  digest.add(states.data(), states.size());
}

template <typename T>
void draw_keyed(Random& random) {
  const int64_t rows = random.between(0, 4), tokens = some(random, 20, 300);
  Array<T> weights(random, rows * tokens);
  Array<int64_t> sequences(random, rows), positions(random, rows), drawn(random, rows);
  weights.fill(random), sequences.fill(random), positions.fill(random);
  const decoding::KeyedDraw<T> draw = {weights.data(), sequences.data(), positions.data(),
                                       drawn.data(),   tokens,           random.value<int64_t>()};
  in_parts(random, rows, [&](int64_t b, int64_t e) { decoding::draw_keyed_cpu(draw, b, e); });
  for (int64_t row = 0; row < rows; ++row) {
    // Again, without what rules most tokens out.
    const uint64_t key = decoding::place_key(draw.seed, sequences[row], positions[row]);
    double largest = -HUGE_VAL;
    int64_t expected = 0;
    for (int64_t token = 0; token < tokens; ++token) {
      const uint64_t bits = decoding::noise_bits(key, token);
      require(decoding::gumbel(bits) <= decoding::gumbel_ceiling(bits), "draw_keyed: ceiling");
      const double sum =
          static_cast<double>(weights[row * tokens + token]) + decoding::gumbel(bits);
      if (largest == largest && !(sum <= largest)) {
        largest = sum;
        expected = token;
      }
    }
    require(drawn[row] == expected, "draw_keyed");
  }
}

template <typename T>
void path_similarity(Random& random) {
  const int64_t sets = random.between(0, 3), paths = random.between(0, 9);
  const int64_t depth = random.between(0, 5), codes = random.between(1, 9);
  const int64_t channels = random.between(1, 9);
  Array<int64_t> tokens(random, sets * paths * depth);
  Array<T> book(random, codes * channels);
  Array<double> weights(random, depth), similarity(random, sets);
  tokens.fill(random, random.pick<int64_t>({0, codes})), book.fill(random), weights.fill(random);
  const decoding::PathSets<T> problem = {
      tokens.data(), book.data(), weights.data(), similarity.data(), paths, depth, codes, channels};
  in_parts(random, sets,
           [&](int64_t b, int64_t e) { decoding::path_similarity_cpu(problem, b, e); });
}

}  // namespace

const std::vector<OpInput>& decoding_ops() {
  static const std::vector<OpInput> ops = {
      {"accept_tree", accept_tree},
      {"accept_tree_by_rejection", [](Random& r, Digest&) { accept_tree_by_rejection<float>(r); }},
      {"accept_tree_by_rejection", [](Random& r, Digest&) { accept_tree_by_rejection<double>(r); }},
      {"compact_rows_", compact_rows},
      {"draw_keyed", [](Random& r, Digest&) { draw_keyed<float>(r); }},
      {"draw_keyed", [](Random& r, Digest&) { draw_keyed<double>(r); }},
      {"path_similarity", [](Random& r, Digest&) { path_similarity<float>(r); }},
      {"path_similarity", [](Random& r, Digest&) { path_similarity<double>(r); }},
  };
  return ops;
}

}  // namespace hostile
