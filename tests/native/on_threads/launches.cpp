// SPDX-License-Identifier: Apache-2.0
// What a launch reports: its own error, and nobody else's. Prints a line for each difference.
#include <atomic>
#include <cstdio>
#include <cstring>

#include "common/launch.cuh"

namespace {

std::atomic<int> runs;

void kernel(int64_t added) { runs += static_cast<int>(added); }

void expect(bool holds, const char* what) {
  if (!holds) {
    std::printf("%s\n", what);
  }
}

bool contains(genaccel::Status status, const char* text) {
  return status != nullptr && std::strstr(status, text) != nullptr;
}

}  // namespace

int main() {
  using genaccel::start;

  // Arguments become what the kernel takes.
  expect(start({3, 32, nullptr, 2}, kernel, 1) == nullptr, "a launch failed");
  expect(runs == 3 * 2 * 32, "not every thread of every block ran");
  expect(start({0, 32, nullptr}, kernel, 1) == nullptr, "no blocks are no error");

  // Another library's error: not reported, and not taken from it.
  on_threads::last_error = cudaErrorInvalidValue;
  expect(start({1, 32, nullptr}, kernel, 1) == nullptr, "an error from elsewhere was reported");
  expect(on_threads::last_error == cudaErrorInvalidValue, "an error from elsewhere was taken away");
  on_threads::last_error = cudaSuccess;

  // Its own: reported, and not left behind.
  on_threads::next_launch_says = cudaErrorInvalidConfiguration;
  expect(contains(start({1, 32, nullptr}, kernel, 1), "invalid configuration"), "no own error");
  expect(on_threads::last_error == cudaSuccess, "its own error was left behind");

  // A kernel's that ran before: said to be that.
  on_threads::next_launch_says = cudaErrorIllegalAddress;
  expect(contains(start({1, 32, nullptr}, kernel, 1), "started before"), "no error from before");
  expect(on_threads::last_error == cudaSuccess, "that error was left behind");

  // Sizes that do not fit a grid; cast to unsigned, 2^32 + 1 would be a single block.
  runs = 0;
  for (const int64_t blocks : {int64_t{1} << 31, (int64_t{1} << 32) + 1, INT64_MAX, int64_t{-1}}) {
    expect(contains(start({blocks, 32, nullptr}, kernel, 1), "too large"), "too many blocks");
  }
  expect(contains(start({1, 32, nullptr, 65536}, kernel, 1), "too large"), "too many rows");
  expect(runs == 0, "a launch that is too large ran");
  on_threads::next_launch_says = cudaErrorInvalidConfiguration;
  start({genaccel::kMaxBlocks, 32, nullptr}, kernel, 1);
  expect(on_threads::last_grid.x == 2147483647u, "the largest grid is another one");
}
