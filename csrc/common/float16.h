// Storage types of the 16-bit floats, for nvcc, NVRTC (which has no cuda_fp16.h) and the host.
// Arithmetic is done in float32: convert, compute, convert back. All conversions round to nearest,
// ties to even, and keep infinities; a NaN stays one.
#pragma once

#include "host_device.h"

namespace deeplab {

struct Half {
  unsigned short bits;
};

struct BFloat16 {
  unsigned short bits;
};

template <typename To, typename From>
HOST_DEVICE To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "same bits, other type");
  To to;
#if defined(__CUDACC_RTC__)
  memcpy(&to, &from, sizeof(To));  // a built-in there, and the other unknown
#else
  __builtin_memcpy(&to, &from, sizeof(To));
#endif
  return to;
}

HOST_DEVICE double to_real(double value) { return value; }
HOST_DEVICE float to_real(float value) { return value; }

HOST_DEVICE float to_real(BFloat16 value) {
  return bits_as<float>(static_cast<unsigned>(value.bits) << 16);
}

HOST_DEVICE float to_real(Half value) {
#if defined(__CUDA_ARCH__)
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
  return result;
#else
  const unsigned sign = (value.bits & 0x8000u) << 16;
  const unsigned magnitude = value.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) {
    return bits_as<float>(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  }
  // The exponent is rebiased by a multiplication, which is exact and normalizes subnormals too.
  const float scaled = bits_as<float>(magnitude << 13) * 0x1p112f;
  return bits_as<float>(sign | bits_as<unsigned>(scaled));
#endif
}

// from_real<T>(value): value rounded to T.
template <typename T>
struct FromReal {
  template <typename V>
  static HOST_DEVICE T convert(V value) {
    return static_cast<T>(value);
  }
};

template <>
struct FromReal<BFloat16> {
  static HOST_DEVICE BFloat16 convert(float value) {
    const unsigned bits = bits_as<unsigned>(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
      return {static_cast<unsigned short>(bits >> 16 | 0x40u)};
    }
    return {static_cast<unsigned short>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
  }
};

template <>
struct FromReal<Half> {
  static HOST_DEVICE Half convert(float value) {
#if defined(__CUDA_ARCH__)
    Half result;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
    return result;
#else
    const unsigned bits = bits_as<unsigned>(value);
    const unsigned short sign = static_cast<unsigned short>(bits >> 16 & 0x8000u);
    const unsigned magnitude = bits & 0x7fffffffu;
    unsigned short rounded;
    if (magnitude > 0x7f800000u) {
      rounded = 0x7e00u;
    } else if (magnitude >= 0x477ff000u) {  // 65520, the first value that rounds to infinity
      rounded = 0x7c00u;
    } else if (magnitude < 0x38800000u) {  // below 2^-14: adding 0.5 aligns the last bit kept
      rounded = static_cast<unsigned short>(bits_as<unsigned>(bits_as<float>(magnitude) + 0.5f) -
                                            0x3f000000u);
    } else {
      const unsigned odd = magnitude >> 13 & 1u;
      rounded = static_cast<unsigned short>((magnitude - 0x38000000u + 0xfffu + odd) >> 13);
    }
    return {static_cast<unsigned short>(sign | rounded)};
#endif
  }
};

template <typename T, typename V>
HOST_DEVICE T from_real(V value) {
  return FromReal<T>::convert(value);
}

// The type that sums of T are formed in.
template <typename T>
struct SumOf {
  using Type = float;
};
template <>
struct SumOf<double> {
  using Type = double;
};

}  // namespace deeplab
