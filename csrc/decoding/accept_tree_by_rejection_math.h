// SPDX-License-Identifier: Apache-2.0
// Acceptance of a tree from its root down, the siblings one after the other (SpecInfer,
// arXiv:2305.09781; relaxed as LANTERN does, arXiv:2410.03355, or with one bound for all guesses
// after a token: genaccel.reference.decoding says why). It is written once for a team of threads: a
// block of a GPU, or the one thread that a sequence has on a CPU. A team has
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

constexpr double kLeast = 1e-30;  // that something is divided by

template <typename T>
struct TreeRejection {
  const int64_t* parents;  // [nodes], the root's is not looked at
  const int64_t* tokens;   // [sequences, nodes], the root's are not looked at
  const T* log_weights;    // [sequences, nodes, vocabulary]: of the target after each node
  const double* uniforms;  // [sequences, nodes]: the i-th is for the i-th guess that is looked at
  const int64_t* neighbours;  // [codes, num_neighbours]: nearest first; nullptr: none lend
  const T* draft;        // [sequences, inner, vocabulary]: what guesses were drawn by; or nullptr
  int64_t* path;         // [sequences, length]: nodes from the root on, -1 behind the last
  int64_t* counts;       // [sequences]: nodes of the path
  T* residual;           // [sequences, vocabulary]: what the token behind it is drawn by
  int64_t* substituted;  // [sequences]: guesses of the path that only a loan let pass
  T* workspace;          // [sequences, vocabulary] where there is a draft
  int64_t nodes, inner, length, vocabulary;
  int64_t codes;  // tokens from here on borrow from none
  int64_t num_neighbours;
  int64_t lenders;   // of the neighbours at most
  double delta;      // up to 1: lent at most; above: delta - 1 times the guess's own
  bool is_original;  // delta is each guess's own, and with a rejected one that has borrowed go all
                     // lenders that there might be and one more
  // Whether what all guesses after one token borrow together is at most delta.
  GENACCEL_HOST_DEVICE bool shares_bound() const {
    return neighbours != nullptr && delta <= 1 && !is_original;
  }
};

GENACCEL_HOST_DEVICE constexpr double positive(double value) { return value > 0 ? value : 0; }

template <typename T>
struct Row {
  T* weights;
  double scale;  // what they are multiplied by

  GENACCEL_HOST_DEVICE double operator[](int64_t i) const {
    return static_cast<double>(weights[i]) * scale;
  }
};

// Sum of f(i) over a row, in parts that do not wait for each other.
GENACCEL_TEAM_FUNCTION
template <typename Team, typename F>
GENACCEL_HOST_DEVICE double sum_of(const Team& team, int64_t size, const F& f) {
  constexpr int kParts = 8;
  double parts[kParts] = {};
  const int64_t step = team.threads();
  int64_t i = team.thread();
  for (; i + (kParts - 1) * step < size; i += kParts * step) {
    for (int part = 0; part < kParts; ++part) {
      parts[part] += f(i + part * step);
    }
  }
  for (; i < size; i += step) {
    parts[0] += f(i);
  }
  for (int part = 1; part < kParts; ++part) {
    parts[0] += parts[part];
  }
  return team.sum(parts[0]);
}

// Where nothing is left, all tokens are alike.
GENACCEL_TEAM_FUNCTION
template <typename Team, typename T>
GENACCEL_HOST_DEVICE void normalise(const Team& team, Row<T>& row, double sum, int64_t size) {
  row.scale = 1 / sum;
  if (!(row.scale < HUGE_VAL)) {
    for (int64_t i = team.thread(); i < size; i += team.threads()) {
      row.weights[i] = 1;
    }
    row.scale = 1 / static_cast<double>(size);
    team.sum(0.0);  // a barrier
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
  return {out, 1 / sum_of(team, size, [=](int64_t i) {
                 out[i] = std::exp(log_weights[i] - largest);
                 return static_cast<double>(out[i]);
               })};
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

// Takes a rejected guess out of the distribution, with its first `struck` neighbours; where it was
// drawn, what it was drawn by, but for these.
GENACCEL_TEAM_FUNCTION
template <typename Team, typename T>
GENACCEL_HOST_DEVICE void reject(const Team& team, const TreeRejection<T>& tree, Row<T>& row,
                                 Row<T>& guessed, int64_t token, int64_t struck, bool is_last) {
  const int64_t size = tree.vocabulary;
  const int64_t* neighbours = tree.neighbours + token * tree.num_neighbours;
  const auto weight_of = [](T* weights) {
    return [=](int64_t i) { return static_cast<double>(weights[i]); };
  };
  if (tree.draft == nullptr) {
    if (team.thread() == 0) {
      row.weights[token] = 0;
    }
    for (int64_t i = team.thread(); i < struck; i += team.threads()) {
      row.weights[existing_index(read_once(neighbours + i), size)] = 0;
    }
    team.sum(0.0);  // a barrier: each thread is about to read what others wrote
    return normalise(team, row, sum_of(team, size, weight_of(row.weights)), size);
  }
  // What is struck keeps its probability: a sign marks it.
  for (int64_t i = team.thread(); i < struck; i += team.threads()) {
    T& marked = guessed.weights[existing_index(read_once(neighbours + i), size)];
    marked = -std::fabs(marked);
  }
  team.sum(0.0);
  const Row<T> before = row, drawn = guessed;
  const double sum = sum_of(team, size, [=](int64_t i) {
    before.weights[i] = static_cast<T>(positive(before[i] - positive(drawn[i])));
    return static_cast<double>(before.weights[i]);
  });
  normalise(team, row, sum, size);
  if (is_last) {
    return;
  }
  for (int64_t i = team.thread(); i < struck; i += team.threads()) {
    T& marked = guessed.weights[existing_index(read_once(neighbours + i), size)];
    marked = std::fabs(marked);
  }
  team.sum(0.0);
  if (team.thread() == 0) {
    guessed.weights[token] = 0;
  }
  team.sum(0.0);
  const double others = sum_of(team, size, weight_of(guessed.weights));
  guessed.scale = others > 0 ? 1 / others : 1;
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
  int64_t substituted = 0;
  Row<T> row = {tree.residual + sequence * size, 1};
  if (team.thread() == 0) {
    path[0] = 0;
  }
  for (bool goes_on = true; goes_on;) {
    const int64_t parent = node;
    row = softmax(team, tree.log_weights + (sequence * tree.nodes + parent) * size, row.weights,
                  size);
    Row<T> guessed = {tree.draft == nullptr ? nullptr : tree.workspace + sequence * size, 1};
    int64_t siblings = 0;  // that are still to be looked at, where it matters
    if (tree.draft != nullptr) {
      siblings = team.from_first([&] {
        int64_t children = 0;
        for (int64_t i = parent + 1; i < tree.nodes; ++i) {
          children += read_once(tree.parents + i) == parent ? 1 : 0;
        }
        return children;
      });
    }
    if (siblings > 0) {
      const int64_t drafted = sequence * tree.inner + existing_index(parent, tree.inner);
      for (int64_t i = team.thread(); i < size; i += team.threads()) {
        guessed.weights[i] = tree.draft[drafted * size + i];
      }
    }
    const double share_of_each = tree.delta / static_cast<double>(siblings > 0 ? siblings : 1);
    // Borrowed at most by those who come, and how probable it is at most that none before was
    // accepted.
    double left = tree.delta, reach = 1;
    goes_on = false;
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
      const bool is_last = --siblings <= 0;
      const double own = row[token];
      const double chance = tree.draft == nullptr ? 1.0 : guessed[token];
      Loan loan = {0, 0};
      if (tree.neighbours != nullptr && token < tree.codes) {
        double bound = tree.delta <= 1 ? tree.delta : (tree.delta - 1) * own;
        if (tree.shares_bound() && tree.draft == nullptr) {
          bound = std::fmin(bound, left / std::fmax(reach, kLeast));
        }
        loan = borrowed(team, row, tree.neighbours + token * tree.num_neighbours, tree.lenders,
                        size, bound);
      }
      if (tree.shares_bound() && tree.draft == nullptr) {
        left = positive(left - reach * loan.lent);
        reach *= positive(1 - own - loan.lent);
      } else if (tree.shares_bound() && (loan.lent > 0 || !is_last)) {
        const Row<T> target = row, drawn = guessed;
        const double total =
            sum_of(team, size, [=](int64_t i) { return positive(drawn[i] - target[i]); });
        const double share = share_of_each / std::fmax(reach * total, kLeast);
        loan.lent = std::fmin(loan.lent, std::fmin(share, 1.0) * positive(chance - own));
        reach *= total;
      }
      // 0: rejected, 1: accepted, 2: only the loan let it pass.
      const int64_t verdict = team.from_first([&] {
        const double uniform = read_once(uniforms + looked_at);
        if (!(chance > 0 && uniform <= (own + loan.lent) / chance)) {
          return int64_t{0};
        }
        return uniform > own / chance ? int64_t{2} : int64_t{1};
      });
      ++looked_at;
      if (verdict != 0) {
        node = child;
        goes_on = true;
        if (team.thread() == 0) {
          path[count] = child;
        }
        ++count;
        substituted += verdict - 1;
        break;
      }
      // A guess that could not be drawn says nothing.
      if (chance > 0) {
        const int64_t all =
            tree.lenders < tree.num_neighbours ? tree.lenders + 1 : tree.num_neighbours;
        const int64_t lenders = tree.draft == nullptr ? loan.lenders : 0;
        reject(team, tree, row, guessed, token,
               tree.is_original && loan.lenders > 0 ? all : lenders, is_last);
      }
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
    tree.substituted[sequence] = substituted;
  }
}

}  // namespace genaccel::decoding
