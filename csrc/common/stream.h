// SPDX-License-Identifier: Apache-2.0
// An opaque CUDA stream, so that bridge headers need no CUDA header.
#pragma once

struct CUstream_st;

namespace genaccel {
using Stream = CUstream_st*;
}  // namespace genaccel
