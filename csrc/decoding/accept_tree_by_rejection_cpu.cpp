// SPDX-License-Identifier: Apache-2.0
// A sequence is the work of one thread.
#include "decoding/accept_tree_by_rejection.h"

namespace genaccel::decoding {
namespace {

struct OneThread {
  static constexpr int64_t thread() { return 0; }
  static constexpr int64_t threads() { return 1; }
  template <typename A>
  A sum(A value) const {
    return value;
  }
  template <typename A>
  A largest(A value) const {
    return value;
  }
  double inclusive_sum(double value) const { return value; }
  template <typename A>
  A value_of(int, A value) const {
    return value;
  }
  template <typename F>
  int64_t from_first(const F& f) const {
    return f();
  }
};

}  // namespace

template <typename T>
void accept_tree_by_rejection_cpu(const TreeRejection<T>& tree, int64_t begin, int64_t end) {
  for (int64_t sequence = begin; sequence < end; ++sequence) {
    accept_sequence(OneThread{}, tree, sequence);
  }
}

template void accept_tree_by_rejection_cpu<float>(const TreeRejection<float>&, int64_t, int64_t);
template void accept_tree_by_rejection_cpu<double>(const TreeRejection<double>&, int64_t, int64_t);

}  // namespace genaccel::decoding
