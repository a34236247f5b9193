// SPDX-License-Identifier: Apache-2.0
// The 16-bit floating-point formats as storage, and how they become float and come back (to nearest
// even). The integer rules are templates: Float and Bits are a scalar pair or vectors of the same
// lanes.
#pragma once

#include <cstdint>

#include "common/bit_cast.h"
#include "common/host_device.h"

namespace genaccel {

struct Half {
  uint16_t bits;
};

struct BFloat16 {
  uint16_t bits;
};

// What values of a storage type are computed in.
template <typename T>
struct AccumulateOf {
  using type = float;
};
template <>
struct AccumulateOf<double> {
  using type = double;
};
template <typename T>
using Accumulate = typename AccumulateOf<T>::type;

// bits: the 16 bits of each lane, zero-extended.
template <typename Float, typename Bits>
GENACCEL_HOST_DEVICE Float float_from_half_bits(Bits bits) {
  const Bits magnitude = (bits & 0x7fffu) << 13;
  // 2^112 makes up for the two exponent biases, and normalises what is subnormal in half.
  const Float scaled = bit_cast<Float>(magnitude) * 5.192296858534828e33f;
  // Infinity and NaN keep their mantissa under the largest exponent.
  const Bits special = magnitude >= 0x0f800000u ? Bits{} + 0x7f800000u : Bits{};
  return bit_cast<Float>(bit_cast<Bits>(scaled) | special | ((bits & 0x8000u) << 16));
}

template <typename Float, typename Bits>
GENACCEL_HOST_DEVICE Bits half_bits_from_float(Float value) {
  const Bits bits = bit_cast<Bits>(value);
  const Bits magnitude = bits & 0x7fffffffu;
  // Below 2^-14 the result is subnormal: next to 0.5 a float's last bit is half's smallest number.
  const Bits small = bit_cast<Bits>(bit_cast<Float>(magnitude) + 0.5f) - 0x3f000000u;
  const Bits normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  const Bits special = magnitude > 0x7f800000u ? Bits{} + 0x7e00u : Bits{} + 0x7c00u;
  const Bits finite = magnitude < 0x38800000u ? small : normal;
  return (magnitude >= 0x47800000u ? special : finite) | ((bits >> 16) & 0x8000u);
}

template <typename Float, typename Bits>
GENACCEL_HOST_DEVICE Float float_from_bfloat16_bits(Bits bits) {
  return bit_cast<Float>(bits << 16);
}

template <typename Float, typename Bits>
GENACCEL_HOST_DEVICE Bits bfloat16_bits_from_float(Float value) {
  const Bits bits = bit_cast<Bits>(value);
  const Bits rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return value != value ? Bits{} + 0x7fc0u : rounded;
}

GENACCEL_HOST_DEVICE float to_float(float value) { return value; }
GENACCEL_HOST_DEVICE double to_float(double value) { return value; }

GENACCEL_HOST_DEVICE float to_float(Half value) {
#if defined(__CUDA_ARCH__)
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
  return result;
#else
  return float_from_half_bits<float, uint32_t>(value.bits);
#endif
}

GENACCEL_HOST_DEVICE float to_float(BFloat16 value) {
  return float_from_bfloat16_bits<float, uint32_t>(value.bits);
}

template <typename T>
GENACCEL_HOST_DEVICE T from_float(Accumulate<T> value) {
  return value;
}

template <>
GENACCEL_HOST_DEVICE Half from_float<Half>(float value) {
#if defined(__CUDA_ARCH__)
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return {bits};
#else
  return {static_cast<uint16_t>(half_bits_from_float<float, uint32_t>(value))};
#endif
}

template <>
GENACCEL_HOST_DEVICE BFloat16 from_float<BFloat16>(float value) {
  return {static_cast<uint16_t>(bfloat16_bits_from_float<float, uint32_t>(value))};
}

}  // namespace genaccel
