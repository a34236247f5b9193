// SPDX-License-Identifier: Apache-2.0
// GENACCEL_HOST_DEVICE marks scalar maths that the CPU and the CUDA build share.
#pragma once

#if defined(__CUDACC__)
#define GENACCEL_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define GENACCEL_HOST_DEVICE inline
#endif
