// SPDX-License-Identifier: Apache-2.0
// Vectors of 32 bytes for the CPU code (one AVX register; other targets split them), loads and
// stores that convert 16-bit formats, and the choice of an instruction set at run time. For
// *_cpu.cpp only. All is inlined always, into a function that is compiled for one instruction set.
#pragma once

#include <cstdint>

#include "common/half.h"
#include "common/host_device.h"

namespace genaccel::simd {

template <typename T>
constexpr int kLanes = 32 / static_cast<int>(sizeof(Accumulate<T>));

template <typename A>
struct VectorOf {
  typedef A type __attribute__((vector_size(32)));
};
// Vector<T> holds kLanes<T> values of Accumulate<T>.
template <typename T>
using Vector = typename VectorOf<Accumulate<T>>::type;

typedef uint32_t Bits __attribute__((vector_size(32)));
typedef uint16_t ShortBits __attribute__((vector_size(16)));

// Instruction sets, which loads, stores and the bodies of run take as their first template
// argument.
struct Portable {
  static constexpr bool kHasF16c = false;
};
struct Avx2 {
  static constexpr bool kHasF16c = true;
};

template <typename Isa, typename T>
GENACCEL_HOST_DEVICE Vector<T> load(const T* from) {
  Vector<T> vector;
  __builtin_memcpy(&vector, from, sizeof(vector));
  return vector;
}

GENACCEL_HOST_DEVICE ShortBits load_bits(const void* from) {
  ShortBits bits;
  __builtin_memcpy(&bits, from, sizeof(bits));
  return bits;
}

template <typename Isa>
GENACCEL_HOST_DEVICE Vector<Half> load(const Half* from) {
  const ShortBits bits = load_bits(from);
#if defined(__x86_64__)
  if constexpr (Isa::kHasF16c) {
    // Not the compiler's builtin: it exists only in functions that say so themselves.
    Vector<Half> vector;
    asm("vcvtph2ps %1, %0" : "=x"(vector) : "x"(bits));
    return vector;
  }
#endif
  return float_from_half_bits<Vector<Half>>(__builtin_convertvector(bits, Bits));
}

template <typename Isa>
GENACCEL_HOST_DEVICE Vector<BFloat16> load(const BFloat16* from) {
  return float_from_bfloat16_bits<Vector<BFloat16>>(__builtin_convertvector(load_bits(from), Bits));
}

template <typename Isa, typename T>
GENACCEL_HOST_DEVICE void store(T* to, Vector<T> vector) {
  __builtin_memcpy(to, &vector, sizeof(vector));
}

GENACCEL_HOST_DEVICE void store_bits(void* to, ShortBits bits) {
  __builtin_memcpy(to, &bits, sizeof(bits));
}

template <typename Isa>
GENACCEL_HOST_DEVICE void store(Half* to, Vector<Half> vector) {
#if defined(__x86_64__)
  if constexpr (Isa::kHasF16c) {
    ShortBits bits;
    asm("vcvtps2ph $0, %1, %0" : "=x"(bits) : "x"(vector));  // 0: to nearest even
    return store_bits(to, bits);
  }
#endif
  store_bits(to,
             __builtin_convertvector(half_bits_from_float<Vector<Half>, Bits>(vector), ShortBits));
}

template <typename Isa>
GENACCEL_HOST_DEVICE void store(BFloat16* to, Vector<BFloat16> vector) {
  store_bits(to, __builtin_convertvector(bfloat16_bits_from_float<Vector<BFloat16>, Bits>(vector),
                                         ShortBits));
}

// The first `count` lanes, the others zero.
template <typename Isa, typename T>
GENACCEL_HOST_DEVICE Vector<T> load_part(const T* from, int64_t count) {
  T lanes[kLanes<T>] = {};
  for (int64_t i = 0; i < count; ++i) {
    lanes[i] = from[i];
  }
  return load<Isa>(lanes);
}

template <typename T>
GENACCEL_HOST_DEVICE Accumulate<T> sum_of_lanes(Vector<T> vector) {
  for (int width = kLanes<T> / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) {
      vector[i] += vector[i + width];
    }
  }
  return vector[0];
}

#if defined(__x86_64__)
template <typename Body, typename... Arguments>
__attribute__((target("avx2,fma,f16c"))) void run_avx2(Arguments... arguments) {
  Body::template run<Avx2>(arguments...);
}

inline bool has_avx2() {
  static const bool has = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                          __builtin_cpu_supports("f16c");
  return has;
}
#endif

template <typename Body, typename... Arguments>
void run_portable(Arguments... arguments) {
  Body::template run<Portable>(arguments...);
}

// Body::run<Isa>(arguments...), which must be inlined always, for the best instruction set of this
// machine.
template <typename Body, typename... Arguments>
void run(Arguments... arguments) {
#if defined(__x86_64__)
  if (has_avx2()) {
    return run_avx2<Body>(arguments...);
  }
#endif
  run_portable<Body>(arguments...);
}

}  // namespace genaccel::simd
