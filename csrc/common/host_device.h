// SPDX-License-Identifier: Apache-2.0
// GENACCEL_HOST_DEVICE marks scalar maths that the CPU and the CUDA build share. Inlined always: on
// the CPU the same lines also work on vectors, which must not cross a call between functions that
// are compiled for different instruction sets.
#pragma once

#if defined(__CUDACC__)
#define GENACCEL_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define GENACCEL_HOST_DEVICE __attribute__((always_inline)) inline
#endif
