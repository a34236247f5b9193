// SPDX-License-Identifier: Apache-2.0
// Acceptance of a tree from its root down, the siblings one after the other (SpecInfer,
// arXiv:2305.09781; relaxed as LANTERN does, arXiv:2410.03355). It is written once for a team of
// threads: a block of a GPU, or the one thread that a sequence has on a CPU. A team has
//   thread(), threads()        its number, and their number
//   sum(x), largest(x)         over all threads
//   inclusive_sum(x)           over this thread and those before it
//   value_of(thread, x)        of one thread
//   from_first(f)              f() of thread 0: what decides is read once, and by one thread, since
//                              somebody may be writing to the arguments
// All but the first two are barriers, after which each thread sees what the others have written.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/host_device.h"
#include "common/integer.h"
#include "common/read_once.h"

// A block's functions exist on the device alone, and are called there alone.
#if defined(__CUDACC__)
#define GENACCEL_TEAM_FUNCTION _Pragma("nv_exec_check_disable")
#else
#define GENACCEL_TEAM_FUNCTION
#endif

namespace genaccel::decoding {

template <typename T>
struct TreeRejection {
  const int64_t* parents;  // [nodes], the root's is not looked at
  const int64_t* tokens;   // [sequences, nodes], the root's are not looked at
  const T* log_weights;    // [sequences, nodes, vocabulary]: of the target after each node
  const double* uniforms;  // [sequences, nodes]: the i-th is for the i-th guess that is looked at
  const int64_t* neighbours;  // [vocabulary, num_neighbours]: nearest first; nullptr: none lend
  const T* draft;   // [sequences, nodes, vocabulary]: what guesses were drawn by; or nullptr
  int64_t* path;    // [sequences, length]: nodes from the root on, -1 behind the last
  int64_t* counts;  // [sequences]: nodes of the path
  T* residual;      // [sequences, vocabulary]: what the token behind it is drawn by
  T* workspace;     // [sequences, vocabulary] where there is a draft
  int64_t nodes, length, vocabulary, num_neighbours;
  int64_t lenders;   // of the neighbours at most
  double delta;      // up to 1: lent at most; above: delta - 1 times the guess's own
  bool strikes_all;  // with a rejected guess go all lenders that there might be and one more
};

template <typename T>
struct Row {
  T* weights;
  double total;  // what they are divided by

  GENACCEL_HOST_DEVICE double operator[](int64_t i) const {
    return static_cast<double>(weights[i]) / total;
  }
};

// Sums the row anew; if nothing is left, all tokens are alike.
GENACCEL_TEAM_FUNCTION
template <typename Team, typename T>
GENACCEL_HOST_DEVICE void normalise(const Team& team, Row<T>& row, int64_t size) {
  double sum = 0;
  for (int64_t i = team.thread(); i < size; i += team.threads()) {
    sum += static_cast<double>(row.weights[i]);
  }
  row.total = team.sum(sum);
  if (!(row.total > 0)) {
    for (int64_t i = team.thread(); i < size; i += team.threads()) {
      row.weights[i] = 1;
    }
    row.total = static_cast<double>(size);
  }
}

GENACCEL_TEAM_FUNCTION
template <typename Team, typename T>
GENACCEL_HOST_DEVICE Row<T> softmax(const Team& team, const T* log_weights, T* out, int64_t size) {
  T largest = -static_cast<T>(HUGE_VAL);
  for (int64_t i = team.thread(); i < size; i += team.threads()) {
    largest = largest < log_weights[i] ? log_weights[i] : largest;
  }
  largest = team.largest(largest);
  double sum = 0;
  for (int64_t i = team.thread(); i < size; i += team.threads()) {
    out[i] = std::exp(log_weights[i] - largest);
    sum += static_cast<double>(out[i]);
  }
  return {out, team.sum(sum)};
}

struct Loan {
  double lent;
  int64_t lenders;
};

// The longest run of the nearest neighbours whose probabilities sum to no more than the bound.
GENACCEL_TEAM_FUNCTION
template <typename Team, typename T>
GENACCEL_HOST_DEVICE Loan borrowed(const Team& team, const Row<T>& row, const int64_t* neighbours,
                                   int64_t count, int64_t vocabulary, double bound) {
  Loan loan = {0, 0};
  for (int64_t first = 0; first < count; first += team.threads()) {
    const int64_t i = first + team.thread();
    // What is behind the last one does not fit.
    const double own =
        i < count ? row[existing_index(read_once(neighbours + i), vocabulary)] : HUGE_VAL;
    const double sum = loan.lent + team.inclusive_sum(own);
    const int64_t fitting = team.sum(sum <= bound ? int64_t{1} : int64_t{0});
    if (fitting > 0) {
      loan.lent = team.value_of(static_cast<int>(fitting) - 1, sum);
    }
    loan.lenders += fitting;
    if (fitting < team.threads()) {
      break;
    }
  }
  return loan;
}

// Takes a rejected guess, and those that are struck with it, out of the distribution.
GENACCEL_TEAM_FUNCTION
template <typename Team, typename T>
GENACCEL_HOST_DEVICE void reject(const Team& team, const TreeRejection<T>& tree, Row<T>& row,
                                 Row<T>& guessed, int64_t token, int64_t struck) {
  const int64_t size = tree.vocabulary;
  const int64_t* neighbours = tree.neighbours + token * tree.num_neighbours;
  if (tree.draft == nullptr) {
    if (team.thread() == 0) {
      row.weights[token] = 0;
    }
    for (int64_t i = team.thread(); i < struck; i += team.threads()) {
      row.weights[existing_index(read_once(neighbours + i), size)] = 0;
    }
    team.sum(0.0);  // a barrier: each thread is about to read what others wrote
    return normalise(team, row, size);
  }
  // What is struck keeps its probability: a sign marks it.
  for (int64_t i = team.thread(); i < struck; i += team.threads()) {
    T& marked = guessed.weights[existing_index(read_once(neighbours + i), size)];
    marked = -std::fabs(marked);
  }
  team.sum(0.0);
  for (int64_t i = team.thread(); i < size; i += team.threads()) {
    const double taken = std::signbit(guessed.weights[i]) ? 0.0 : guessed[i];
    const double left = row[i] - taken;
    row.weights[i] = static_cast<T>(left < 0 ? 0 : left);
    guessed.weights[i] = i == token ? T{0} : std::fabs(guessed.weights[i]);
  }
  normalise(team, row, size);
  normalise(team, guessed, size);
}

GENACCEL_TEAM_FUNCTION
template <typename Team, typename T>
GENACCEL_HOST_DEVICE void accept_sequence(const Team& team, const TreeRejection<T>& tree,
                                          int64_t sequence) {
  const int64_t size = tree.vocabulary;
  const int64_t* tokens = tree.tokens + sequence * tree.nodes;
  const double* uniforms = tree.uniforms + sequence * tree.nodes;
  int64_t* path = tree.path + sequence * tree.length;
  int64_t node = 0;
  int64_t count = 1;
  int64_t looked_at = 0;
  Row<T> row = {tree.residual + sequence * size, 1};
  if (team.thread() == 0) {
    path[0] = 0;
  }
  for (bool goes_on = true; goes_on;) {
    const int64_t offset = (sequence * tree.nodes + node) * size;
    row = softmax(team, tree.log_weights + offset, row.weights, size);
    Row<T> guessed = {tree.draft == nullptr ? nullptr : tree.workspace + sequence * size, 1};
    for (int64_t i = team.thread(); tree.draft != nullptr && i < size; i += team.threads()) {
      guessed.weights[i] = tree.draft[offset + i];
    }
    goes_on = false;
    const int64_t parent = node;
    int64_t child = parent;
    while (!goes_on && count < tree.length) {
      child = team.from_first([&] {
        int64_t next = child + 1;
        while (next < tree.nodes && read_once(tree.parents + next) != parent) {
          ++next;
        }
        return next;
      });
      if (child >= tree.nodes) {
        break;
      }
      const int64_t token =
          team.from_first([&] { return existing_index(read_once(tokens + child), size); });
      const double own = row[token];
      Loan loan = {0, 0};
      if (tree.neighbours != nullptr) {
        const double bound = tree.delta <= 1 ? tree.delta : (tree.delta - 1) * own;
        loan = borrowed(team, row, tree.neighbours + token * tree.num_neighbours, tree.lenders,
                        size, bound);
      }
      const int64_t is_accepted = team.from_first([&] {
        double mass = own + loan.lent;
        if (tree.draft != nullptr) {
          const double q = guessed[token];
          mass = q > 0 ? mass / q : 1.0;
        }
        return int64_t{uniforms[looked_at] <= mass ? 1 : 0};
      });
      ++looked_at;
      if (is_accepted != 0) {
        node = child;
        goes_on = true;
        if (team.thread() == 0) {
          path[count] = child;
        }
        ++count;
        break;
      }
      const int64_t all =
          tree.lenders < tree.num_neighbours ? tree.lenders + 1 : tree.num_neighbours;
      reject(team, tree, row, guessed, token,
             loan.lenders > 0 && tree.strikes_all ? all : loan.lenders);
    }
  }
  for (int64_t i = team.thread(); i < size; i += team.threads()) {
    row.weights[i] = static_cast<T>(row[i]);
  }
  for (int64_t i = count + team.thread(); i < tree.length; i += team.threads()) {
    path[i] = -1;
  }
  if (team.thread() == 0) {
    tree.counts[sequence] = count;
  }
}

}  // namespace genaccel::decoding
