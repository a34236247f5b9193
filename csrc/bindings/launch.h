// SPDX-License-Identifier: Apache-2.0
// How a binding runs its op where its tensors are, and makes it known to torch.
#pragma once

#include <string>

#include "bindings/torch_compat.h"

namespace genaccel {

constexpr int64_t kElementsPerTask = 32768;  // as torch does: a task is some 10 microseconds

// Rows of so many elements that make a task.
inline int64_t rows_per_task(int64_t elements) { return 1 + kElementsPerTask / (elements + 1); }

// Calls on_cpu(), or for a tensor on a GPU on_cuda(stream) with its device current and its stream,
// and raises the error that it returns. on_cuda takes `auto stream`: a CPU build, which has no such
// launchers, then never looks for them.
template <typename OnCpu, typename OnCuda>
void launch([[maybe_unused]] const char* op, [[maybe_unused]] const Tensor& tensor,
            const OnCpu& on_cpu, [[maybe_unused]] const OnCuda& on_cuda) {
#if defined(GENACCEL_WITH_CUDA)
  if (tensor.is_cuda()) {
    const DeviceGuard guard(tensor.get_device_index());
    const Status status = on_cuda(current_stream(tensor));
    STD_TORCH_CHECK(status == nullptr, op, ": ", status);
    return;
  }
#endif
  on_cpu();
}

// The same where the CPU's threads share [0, size) in tasks of at least `task`: on_cpu(begin, end).
template <typename OnCpu, typename OnCuda>
void launch(const char* op, const Tensor& tensor, int64_t size, int64_t task, const OnCpu& on_cpu,
            const OnCuda& on_cuda) {
  launch(op, tensor, [&] { torch::stable::parallel_for(0, size, task, on_cpu); }, on_cuda);
}

// An op: its schema, and TORCH_BOX of the one function that serves all devices.
struct Op {
  const char* schema;
  void (*boxed)(StableIValue*, uint64_t, uint64_t);

  std::string name() const { return std::string(schema, std::string(schema).find('(')); }
};

#define GENACCEL_REGISTER_ON(device, ops)          \
  STABLE_TORCH_LIBRARY_IMPL(genaccel, device, m) { \
    for (const Op& op : ops) {                     \
      m.impl(op.name().c_str(), op.boxed);         \
    }                                              \
  }

#if defined(GENACCEL_WITH_CUDA)
#define GENACCEL_REGISTER_ON_CUDA(ops) GENACCEL_REGISTER_ON(CUDA, ops)
#else
#define GENACCEL_REGISTER_ON_CUDA(ops)
#endif

// Once a family, with an array of all its ops.
#define GENACCEL_REGISTER(ops)                 \
  STABLE_TORCH_LIBRARY_FRAGMENT(genaccel, m) { \
    for (const Op& op : ops) {                 \
      m.def(op.schema);                        \
    }                                          \
  }                                            \
  GENACCEL_REGISTER_ON(CPU, ops)               \
  GENACCEL_REGISTER_ON_CUDA(ops)

}  // namespace genaccel
