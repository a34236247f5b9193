// SPDX-License-Identifier: Apache-2.0
// Trees of guesses, draws, and the cache behind them; indices are int64.
#include <algorithm>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/checks.h"
#include "bindings/launch.h"
#include "decoding/accept_tree.h"
#include "decoding/accept_tree_by_rejection.h"
#include "decoding/compact_rows.h"
#include "decoding/draw_keyed.h"
#include "decoding/path_similarity.h"

namespace genaccel {
namespace {

constexpr int64_t kMaxDepth = int64_t{1} << 30;

// Nodes of a tree, of which there is one at least.
const int64_t* checked_parents(const Tensor& parents, const Tensor& first, const char* op) {
  const int64_t* result = checked<int64_t>(parents, {kAnySize}, first, op, "parents");
  STD_TORCH_CHECK(parents.size(0) > 0, op, ": parents must have a root");
  return result;
}

// Paths and counts that are still to be written.
std::tuple<Tensor, Tensor> new_paths(const Tensor& tokens, int64_t depth) {
  return {torch::stable::new_empty(tokens, {tokens.size(0), depth + 1}, ScalarType::Long),
          torch::stable::new_empty(tokens, {tokens.size(0)}, ScalarType::Long)};
}

std::tuple<Tensor, Tensor> accept_tree(const Tensor& parents, const Tensor& tokens,
                                       const Tensor& drawn, int64_t depth) {
  const char* op = "accept_tree";
  check_range(depth, 0, kMaxDepth, op, "depth");
  decoding::TreeWalk walk{};
  walk.parents = checked_parents(parents, tokens, op);
  walk.nodes = parents.size(0);
  walk.tokens = checked<int64_t>(tokens, {kAnySize, walk.nodes}, tokens, op, "tokens");
  walk.drawn = checked<int64_t>(drawn, {tokens.size(0), walk.nodes}, tokens, op, "drawn");
  auto [path, counts] = new_paths(tokens, depth);
  walk.path = mutable_elements<int64_t>(path);
  walk.counts = mutable_elements<int64_t>(counts);
  walk.length = depth + 1;
  const int64_t sequences = tokens.size(0);
  launch(
      op, tokens, sequences, rows_per_task(walk.nodes + walk.length),
      [=](int64_t begin, int64_t end) { decoding::accept_tree_cpu(walk, begin, end); },
      [=](auto stream) { return decoding::accept_tree_cuda(walk, sequences, stream); });
  return {path, counts};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> accept_tree_by_rejection(
    const Tensor& parents, const Tensor& tokens, const Tensor& log_weights, const Tensor& uniforms,
    const std::optional<Tensor>& neighbours, const std::optional<Tensor>& draft_probabilities,
    int64_t lenders, double delta, bool is_original, int64_t depth) {
  const char* op = "accept_tree_by_rejection";
  check_range(depth, 0, kMaxDepth, op, "depth");
  const int64_t* parent = checked_parents(parents, tokens, op);
  const int64_t nodes = parents.size(0);
  const int64_t* token = checked<int64_t>(tokens, {kAnySize, nodes}, tokens, op, "tokens");
  const int64_t sequences = tokens.size(0);
  check_shape(log_weights, {sequences, nodes, kAnySize}, op, "log_weights");
  check_place(log_weights, tokens, op, "log_weights");
  const int64_t vocabulary = log_weights.size(2);
  STD_TORCH_CHECK(vocabulary > 0, op, ": log_weights must have a token");
  const double* uniform = checked<double>(uniforms, {sequences, nodes}, tokens, op, "uniforms");
  STD_TORCH_CHECK(delta >= 0 && delta - delta == 0, op,
                  ": delta must be at least 0 and finite, got ", delta);
  const int64_t* neighbour = nullptr;
  int64_t codes = 0;
  if (neighbours.has_value()) {
    neighbour = checked<int64_t>(*neighbours, {kAnySize, kAnySize}, tokens, op, "neighbours");
    codes = neighbours->size(0);
    check_range(codes, 0, vocabulary, op, "the tokens of neighbours");
    check_range(lenders, 0, neighbours->size(1), op, "lenders");
  }
  int64_t inner = 0;
  if (draft_probabilities.has_value()) {
    check_shape(*draft_probabilities, {sequences, kAnySize, vocabulary}, op, "draft_probabilities");
    check_same_kind(log_weights, *draft_probabilities, op, "draft_probabilities");
    inner = draft_probabilities->size(1);
    check_range(inner, 1, nodes, op, "the nodes of draft_probabilities");
    for (int64_t i = 1; i < nodes && !tokens.is_cuda(); ++i) {
      STD_TORCH_CHECK(parent[i] < inner || parent[i] >= i, op,
                      ": draft_probabilities must have a row for each node with children, got ",
                      inner, " and a child of node ", parent[i]);
    }
  }
  for (int64_t i = 0; i < sequences * nodes && !tokens.is_cuda(); ++i) {
    if (i % nodes != 0) {
      check_range(token[i], 0, vocabulary - 1, op, "tokens");
    }
  }
  auto [path, counts] = new_paths(tokens, depth);
  Tensor residual = torch::stable::new_empty(log_weights, {sequences, vocabulary});
  Tensor substituted = torch::stable::new_empty(tokens, {sequences}, ScalarType::Long);
  Tensor workspace = torch::stable::new_empty(
      log_weights, {draft_probabilities.has_value() ? sequences : 0, vocabulary});
  int64_t* path_out = mutable_elements<int64_t>(path);
  int64_t* counts_out = mutable_elements<int64_t>(counts);
  int64_t* substituted_out = mutable_elements<int64_t>(substituted);
  dispatch_float_or_double(log_weights, op, [&](auto zero) {
    using T = decltype(zero);
    const decoding::TreeRejection<T> tree = {
        parent,
        token,
        elements<T>(log_weights),
        uniform,
        neighbour,
        draft_probabilities.has_value() ? elements<T>(*draft_probabilities) : nullptr,
        path_out,
        counts_out,
        mutable_elements<T>(residual),
        substituted_out,
        mutable_elements<T>(workspace),
        nodes,
        inner,
        depth + 1,
        vocabulary,
        codes,
        neighbour == nullptr ? 0 : neighbours->size(1),
        lenders,
        delta,
        is_original};
    launch(
        op, tokens, sequences, 1,
        [&](int64_t begin, int64_t end) {
          decoding::accept_tree_by_rejection_cpu(tree, begin, end);
        },
        [&](auto stream) {
          return decoding::accept_tree_by_rejection_cuda(tree, sequences, stream);
        });
  });
  return {path, counts, residual, substituted};
}

Tensor draw_keyed(const Tensor& log_weights, int64_t seed, const Tensor& sequences,
                  const Tensor& positions) {
  const char* op = "draw_keyed";
  check_shape(log_weights, {kAnySize, kAnySize}, op, "log_weights");
  const int64_t rows = log_weights.size(0);
  const int64_t tokens = log_weights.size(1);
  STD_TORCH_CHECK(tokens > 0, op, ": log_weights must have a token");
  const int64_t* sequence = checked<int64_t>(sequences, {rows}, log_weights, op, "sequences");
  const int64_t* position = checked<int64_t>(positions, {rows}, log_weights, op, "positions");
  Tensor drawn = torch::stable::new_empty(log_weights, {rows}, ScalarType::Long);
  int64_t* out = mutable_elements<int64_t>(drawn);
  dispatch_float_or_double(log_weights, op, [&](auto zero) {
    using T = decltype(zero);
    const decoding::KeyedDraw<T> draw = {
        elements<T>(log_weights), sequence, position, out, tokens, seed};
    launch(
        op, log_weights, rows, rows_per_task(8 * tokens),
        [=](int64_t begin, int64_t end) { decoding::draw_keyed_cpu(draw, begin, end); },
        [=](auto stream) { return decoding::draw_keyed_cuda(draw, rows, stream); });
  });
  return drawn;
}

Tensor path_similarity(const Tensor& paths, const Tensor& unit_codes, const Tensor& weights) {
  const char* op = "path_similarity";
  const int64_t* path = checked<int64_t>(paths, {kAnySize, kAnySize, kAnySize}, paths, op, "paths");
  check_shape(unit_codes, {kAnySize, kAnySize}, op, "unit_codes");
  check_place(unit_codes, paths, op, "unit_codes");
  const int64_t sets = paths.size(0);
  const int64_t codes = unit_codes.size(0);
  STD_TORCH_CHECK(unit_codes.numel() > 0, op, ": unit_codes must have elements");
  const double* weight = checked<double>(weights, {paths.size(2)}, paths, op, "weights");
  for (int64_t i = 0; i < paths.numel() && !paths.is_cuda(); ++i) {
    STD_TORCH_CHECK(path[i] < codes, op, ": paths must have tokens below ", codes, ", got ",
                    path[i]);
  }
  Tensor similarity = torch::stable::new_empty(paths, {sets}, ScalarType::Double);
  double* out = mutable_elements<double>(similarity);
  dispatch_float_or_double(unit_codes, op, [&](auto zero) {
    using T = decltype(zero);
    const decoding::PathSets<T> problem = {path,  elements<T>(unit_codes), weight,
                                           out,   paths.size(1),           paths.size(2),
                                           codes, unit_codes.size(1)};
    launch(
        op, paths, sets, rows_per_task(paths.size(1) * paths.size(2) * unit_codes.size(1)),
        [=](int64_t begin, int64_t end) { decoding::path_similarity_cpu(problem, begin, end); },
        [=](auto stream) { return decoding::path_similarity_cuda(problem, sets, stream); });
  });
  return similarity;
}

// Where the bytes of a tensor lie: all that it can reach.
struct Extent {
  uintptr_t begin, end;
  const char* name;

  Extent(const Tensor& tensor, const char* tensor_name)
      : begin(reinterpret_cast<uintptr_t>(tensor.const_data_ptr())), end(begin), name(tensor_name) {
    if (tensor.numel() > 0) {
      int64_t last = 0;
      for (int64_t axis = 0; axis < tensor.dim(); ++axis) {
        last += (tensor.size(axis) - 1) * tensor.stride(axis);
      }
      end += static_cast<uintptr_t>(last + 1) * tensor.element_size();
    }
  }
};

// What is written to shares no byte with itself or with another argument.
void check_apart(const std::vector<Tensor>& states, const Tensor& sources, const Tensor& starts,
                 const Tensor& counts, const char* op) {
  std::vector<Extent> extents = {{sources, "sources"}, {starts, "starts"}, {counts, "counts"}};
  for (const Tensor& tensor : states) {
    std::vector<std::pair<int64_t, int64_t>> axes;  // stride, size
    for (int64_t axis = 0; axis < tensor.dim(); ++axis) {
      if (tensor.size(axis) > 1) {
        axes.emplace_back(tensor.stride(axis), tensor.size(axis));
      }
    }
    std::sort(axes.begin(), axes.end());
    int64_t reach = 0;  // of the axes with smaller strides, in elements
    for (const auto& [stride, size] : axes) {
      STD_TORCH_CHECK(tensor.numel() == 0 || stride > reach, op,
                      ": states must not overlap themselves: clone them first");
      reach += (size - 1) * stride;
    }
    extents.emplace_back(tensor, "states");
  }
  // Indices may share memory with each other.
  std::sort(extents.begin(), extents.end(),
            [](const Extent& a, const Extent& b) { return a.begin < b.begin; });
  uintptr_t states_end = 0, indices_end = 0;
  for (const Extent& extent : extents) {
    if (extent.begin == extent.end) {
      continue;
    }
    const bool is_states = extent.name == std::string("states");
    STD_TORCH_CHECK(extent.begin >= states_end && (!is_states || extent.begin >= indices_end), op,
                    ": states must not overlap each other or the indices: clone them first");
    uintptr_t& end = is_states ? states_end : indices_end;
    end = std::max(end, extent.end);
  }
}

// On a CPU, where it costs nothing; elsewhere rows that do not exist are left alone.
void check_moves(const int64_t* sources, const int64_t* starts, const int64_t* counts,
                 int64_t batch, int64_t moves, int64_t rows, const char* op) {
  for (int64_t sequence = 0; sequence < batch; ++sequence) {
    const int64_t count = counts[sequence];
    check_range(count, 0, moves, op, "counts");
    check_range(starts[sequence], 0, rows - count, op, "starts");
    int64_t lowest = starts[sequence];
    for (int64_t k = 0; k < count; ++k) {
      const int64_t source = sources[sequence * moves + k];
      STD_TORCH_CHECK(source >= lowest && source < rows, op,
                      ": sources must rise, from their targets on, below ", rows, ", got ", source,
                      " where at least ", lowest, " was due");
      lowest = source + 1;
    }
  }
}

void compact_rows_(const std::vector<Tensor>& states, const Tensor& sources, const Tensor& starts,
                   const Tensor& counts) {
  const char* op = "compact_rows_";
  decoding::Compaction compaction{};
  compaction.sources = checked<int64_t>(sources, {kAnySize, kAnySize}, sources, op, "sources");
  compaction.batch = sources.size(0);
  compaction.moves = sources.size(1);
  compaction.starts = checked<int64_t>(starts, {compaction.batch}, sources, op, "starts");
  compaction.counts = checked<int64_t>(counts, {compaction.batch}, sources, op, "counts");
  if (states.empty()) {
    return;
  }
  const Tensor& first = states[0];
  check_dim(first, 4, op, "states");
  const auto width = static_cast<int64_t>(first.element_size());
  compaction.heads = first.size(1);
  compaction.rows = first.size(2);
  compaction.row_bytes = first.size(3) * width;
  for (const Tensor& tensor : states) {
    check_dim(tensor, 4, op, "states");
    check_size(tensor, 0, compaction.batch, op, "states");
    for (int64_t axis = 1; axis < 4; ++axis) {
      check_size(tensor, axis, first.size(axis), op, "states");
    }
    check_same_kind(first, tensor, op, "states");
    check_place(tensor, sources, op, "states");
    STD_TORCH_CHECK(tensor.size(3) < 2 || tensor.stride(3) == 1, op,
                    ": states must have a contiguous last dimension");
    STD_TORCH_CHECK(reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % width == 0,
                    "a tensor must be aligned to its elements of ", width,
                    " bytes: clone it first");
  }
  check_apart(states, sources, starts, counts, op);
  if (first.numel() == 0) {
    return;
  }
  if (!first.is_cuda()) {
    check_moves(compaction.sources, compaction.starts, compaction.counts, compaction.batch,
                compaction.moves, compaction.rows, op);
  }
  std::vector<decoding::States> all;
  for (const Tensor& tensor : states) {
    all.push_back({static_cast<char*>(tensor.mutable_data_ptr()), tensor.stride(0) * width,
                   tensor.stride(1) * width, tensor.stride(2) * width});
  }
  const int64_t heads = compaction.batch * compaction.heads;
  const auto count = static_cast<int64_t>(all.size());
  launch(
      op, first, heads * count,
      rows_per_task(compaction.moves * compaction.row_bytes / static_cast<int64_t>(sizeof(float))),
      [&](int64_t begin, int64_t end) {
        for (int64_t at = begin; at < end;) {
          const int64_t tensor = at / heads;
          const int64_t stop = std::min(end, (tensor + 1) * heads);
          decoding::compact_rows_cpu(compaction, all[tensor], at - tensor * heads,
                                     stop - tensor * heads);
          at = stop;
        }
      },
      [&](auto stream) {
        return decoding::compact_rows_cuda(compaction, all.data(), count, stream);
      });
}

const Op kOps[] = {
    {"accept_tree(Tensor parents, Tensor tokens, Tensor drawn, int depth) -> "
     "(Tensor path, Tensor counts)",
     TORCH_BOX(&accept_tree)},
    {"accept_tree_by_rejection(Tensor parents, Tensor tokens, Tensor log_weights, "
     "Tensor uniforms, Tensor? neighbours, Tensor? draft_probabilities, int lenders, float delta, "
     "bool is_original, int depth) -> (Tensor path, Tensor counts, Tensor residual, "
     "Tensor substituted)",
     TORCH_BOX(&accept_tree_by_rejection)},
    {"compact_rows_(Tensor(a!)[] states, Tensor sources, Tensor starts, Tensor counts) -> ()",
     TORCH_BOX(&compact_rows_)},
    {"draw_keyed(Tensor log_weights, int seed, Tensor sequences, Tensor positions) -> Tensor",
     TORCH_BOX(&draw_keyed)},
    {"path_similarity(Tensor paths, Tensor unit_codes, Tensor weights) -> Tensor",
     TORCH_BOX(&path_similarity)},
};

}  // namespace

GENACCEL_REGISTER(kOps)

}  // namespace genaccel
