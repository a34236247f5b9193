// SPDX-License-Identifier: Apache-2.0
// Vectors of 32 bytes for the CPU code (one AVX register; other targets split them), loads and
// stores that convert 16-bit formats, and the choice of an instruction set at run time. For
// *_cpu.cpp only. All is inlined always, into a function that is compiled for one instruction set.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>

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

// The vector at `from`, of which `count` lanes exist; the others, if any, are `fill`.
template <typename Isa, typename T>
GENACCEL_HOST_DEVICE Vector<T> load_filled(const T* from, int64_t count, Accumulate<T> fill) {
  if (count >= kLanes<T>) {
    return load<Isa>(from);
  }
  Vector<T> vector = load_part<Isa>(from, count);
  for (int i = 0; i < kLanes<T>; ++i) {
    vector[i] = i < count ? vector[i] : fill;
  }
  return vector;
}

// The first `count` lanes; what follows them in memory stays as it is.
template <typename Isa, typename T>
GENACCEL_HOST_DEVICE void store_part(T* to, Vector<T> vector, int64_t count) {
  T lanes[kLanes<T>];
  store<Isa>(lanes, vector);
  for (int64_t i = 0; i < count; ++i) {
    to[i] = lanes[i];
  }
}

template <typename A>
struct ExpOf;
template <>
struct ExpOf<float> {
  typedef uint32_t Bits __attribute__((vector_size(32)));
  static constexpr float kLowest = -87.3365447505531f;  // of the smallest normal number
  static constexpr float kLog2High = 0.693359375f;      // few bits: its multiples are exact
  static constexpr float kLog2Low = -2.12194440e-4f;
  static constexpr float kRound = 12582912.0f + 127;  // 1.5 * 2^23 and the bias of the exponent
  static constexpr int kMantissaBits = 23;
  // (e^r - 1 - r) / r^2, highest power first (Cephes expf, S. Moshier).
  static constexpr float kPolynomial[] = {1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f,
                                          4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f};
};
template <>
struct ExpOf<double> {
  typedef uint64_t Bits __attribute__((vector_size(32)));
  static constexpr double kLowest = -708.396418532264106;
  static constexpr double kLog2High = 6.93145751953125e-1;
  static constexpr double kLog2Low = 1.42860682030941723212e-6;
  static constexpr double kRound = 6755399441055744.0 + 1023;
  static constexpr int kMantissaBits = 52;
  // Taylor: what is left out is below 2^-57 of the sum for |r| <= ln(2) / 2.
  static constexpr double kPolynomial[] = {
      1.0 / 6227020800, 1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320,
      1.0 / 5040,       1.0 / 720,       1.0 / 120,      1.0 / 24,      1.0 / 6,      1.0 / 2};
};

// e^x of each lane for x <= 0 (the terms of a softmax), to about one rounding. What would be
// subnormal is zero: arithmetic with subnormals is a hundred times slower. NaN stays NaN.
template <typename T>
GENACCEL_HOST_DEVICE Vector<T> exp_of_nonpositive(Vector<T> x) {
  using Constants = ExpOf<Accumulate<T>>;
  using Bits = typename Constants::Bits;
  const Vector<T> lowest = Vector<T>{} + Constants::kLowest;
  const Vector<T> inside = x < lowest ? lowest : x;
  // x = n ln(2) + r: the addition rounds to the integer n, and leaves n + bias in the low bits.
  const Vector<T> shifted =
      inside * static_cast<Accumulate<T>>(1.44269504088896340736) + Constants::kRound;
  const Vector<T> n = shifted - Constants::kRound;
  const Vector<T> r = (inside - n * Constants::kLog2High) - n * Constants::kLog2Low;
  Vector<T> sum = Vector<T>{} + Constants::kPolynomial[0];
  for (int i = 1; i < static_cast<int>(sizeof(Constants::kPolynomial) / sizeof(Accumulate<T>));
       ++i) {
    sum = sum * r + Constants::kPolynomial[i];
  }
  const Vector<T> mantissa = (sum * (r * r) + r) + 1;
  const auto power = bit_cast<Vector<T>>(bit_cast<Bits>(shifted) << Constants::kMantissaBits);
  return x < lowest ? Vector<T>{} : mantissa * power;
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

template <typename T>
GENACCEL_HOST_DEVICE Accumulate<T> largest_of_lanes(Vector<T> vector) {
  for (int width = kLanes<T> / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) {
      vector[i] = vector[i] > vector[i + width] ? vector[i] : vector[i + width];
    }
  }
  return vector[0];
}

#if defined(__x86_64__)
template <typename Body, typename... Arguments>
__attribute__((target("avx2,fma,f16c"))) void run_avx2(Arguments... arguments) {
  Body::template run<Avx2>(arguments...);
}

// ATEN_CPU_CAPABILITY=default, with which torch forgoes its vectors, forgoes ours.
inline bool is_wanted() {
  const char* name = std::getenv("ATEN_CPU_CAPABILITY");
  return name == nullptr || std::strcmp(name, "default") != 0;
}

inline bool has_avx2() {
  static const bool has = is_wanted() && __builtin_cpu_supports("avx2") &&
                          __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
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
