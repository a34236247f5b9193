// SPDX-License-Identifier: Apache-2.0
// Low and high spatial frequencies of pictures.
#include <algorithm>
#include <optional>
#include <vector>

#include "bindings/checks.h"
#include "bindings/launch.h"
#include "frequency/frequency_update.h"
#include "frequency/low_pass.h"

namespace genaccel {
namespace {

constexpr int64_t kMaxSide = int64_t{1} << 30;  // sums of places stay far from overflow

template <typename A>
frequency::Taps<A> taps_of(const std::vector<double>& numbers, const char* op) {
  frequency::Taps<A> taps;
  constexpr size_t half = frequency::kRank * frequency::kReach;
  STD_TORCH_CHECK(numbers.size() == 2 * half, op, ": taps must have ", 2 * half, " numbers, got ",
                  numbers.size());
  const auto as_stored = [](double number) { return static_cast<A>(number); };
  std::transform(numbers.begin(), numbers.begin() + half, &taps.column[0][0], as_stored);
  std::transform(numbers.begin() + half, numbers.end(), &taps.row[0][0], as_stored);
  return taps;
}

Tensor low_pass(const Tensor& x, const std::vector<double>& taps, bool periodic) {
  const char* op = "low_pass";
  check_shape(x, {kAnySize, kAnySize, kAnySize}, op, "x");
  check_range(x.size(1), 0, kMaxSide, op, "height");
  check_range(x.size(2), 0, kMaxSide, op, "width");
  Tensor out = torch::stable::empty_like(x);
  dispatch_floating(x, op, [&](auto zero) {
    using T = decltype(zero);
    const frequency::LowPass<T> filter = {
        elements<T>(x), mutable_elements<T>(out),        x.size(0), x.size(1), x.size(2),
        periodic,       taps_of<Accumulate<T>>(taps, op)};
    if (x.numel() == 0) {
      return;
    }
    launch(
        op, x, filter.planes * filter.height,
        std::max(frequency::kRowsPerTask, rows_per_task(filter.width)),
        [=](int64_t begin, int64_t end) { frequency::low_pass_cpu<T>(filter, begin, end); },
        [=](auto stream) { return frequency::low_pass_cuda<T>(filter, stream); });
  });
  return out;
}

// Whether the samples of a pixel are side by side: torch's memory format channels_last.
bool is_interleaved(const Tensor& frames) {
  const int64_t row = 3 * frames.size(3);
  return !frames.is_contiguous() && frames.stride(1) == 1 && frames.stride(3) == 3 &&
         frames.stride(2) == row && frames.stride(0) == frames.size(2) * row;
}

// Calls f(T{}) with the element type of frames: that of uint8 too.
template <typename F>
void dispatch_frames(const Tensor& frames, const char* op, const F& f) {
  if (frames.scalar_type() == ScalarType::Byte) {
    return f(uint8_t{});
  }
  dispatch_floating(frames, op, f);
}

Tensor frequency_update(const Tensor& faithful, const Tensor& sharp,
                        const std::optional<Tensor>& weight, const std::vector<double>& taps,
                        double alpha, bool periodic) {
  const char* op = "frequency_update";
  check_dim(faithful, 4, op, "faithful");
  check_size(faithful, 1, 3, op, "faithful");
  check_dim(sharp, 4, op, "sharp");
  for (int64_t axis = 0; axis < 4; ++axis) {
    check_size(sharp, axis, faithful.size(axis), op, "sharp");
  }
  check_range(faithful.size(2), 0, kMaxSide, op, "height");
  check_range(faithful.size(3), 0, kMaxSide, op, "width");
  check_same_kind(faithful, sharp, op, "sharp");
  const bool interleaved = is_interleaved(faithful);
  STD_TORCH_CHECK(interleaved ? is_interleaved(sharp) || sharp.numel() == 0
                              : faithful.is_contiguous() && sharp.is_contiguous(),
                  op, ": faithful and sharp must both be contiguous, or both channels_last");
  Tensor out = torch::stable::empty_like(faithful);
  STD_TORCH_CHECK(out.is_contiguous() != interleaved, op,
                  ": this torch lays out results otherwise");
  dispatch_frames(faithful, op, [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulate<T>;
    const A* weights =
        weight.has_value()
            ? checked<A>(*weight, {faithful.size(0), faithful.size(2), faithful.size(3)}, faithful,
                         op, "weight")
            : nullptr;
    const frequency::FrequencyUpdate<T> update = {
        elements<T>(faithful),    elements<T>(sharp),  weights,
        mutable_elements<T>(out), faithful.size(0),    faithful.size(2),
        faithful.size(3),         interleaved,         periodic,
        static_cast<A>(alpha),    taps_of<A>(taps, op)};
    if (faithful.numel() == 0) {
      return;
    }
    launch(
        op, faithful, update.frames * update.height,
        std::max(frequency::kRowsPerTask, rows_per_task(update.width)),
        [=](int64_t begin, int64_t end) { frequency::frequency_update_cpu<T>(update, begin, end); },
        [=](auto stream) { return frequency::frequency_update_cuda<T>(update, stream); });
  });
  return out;
}

const Op kOps[] = {
    {"low_pass(Tensor x, float[] taps, bool periodic) -> Tensor", TORCH_BOX(&low_pass)},
    {"frequency_update(Tensor faithful, Tensor sharp, Tensor? weight, float[] taps, float alpha, "
     "bool "
     "periodic) -> Tensor",
     TORCH_BOX(&frequency_update)},
};

}  // namespace

GENACCEL_REGISTER(kOps)

}  // namespace genaccel
