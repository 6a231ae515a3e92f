// The two 16-bit floating point formats as plain bits, and their conversion from and to float (round to nearest even).
#pragma once

#include <cstdint>
#include <cstring>

#include "host_device.h"

namespace mrcnn {

struct Half {
  uint16_t bits;
};

struct BFloat16 {
  uint16_t bits;
};

MRCNN_HD static inline float bits_to_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

MRCNN_HD static inline uint32_t float_to_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return bits;
}

MRCNN_HD static inline float to_float(float value) { return value; }

MRCNN_HD static inline float to_float(BFloat16 value) { return bits_to_float(static_cast<uint32_t>(value.bits) << 16); }

MRCNN_HD static inline float to_float(Half value) {
#ifdef __CUDA_ARCH__  // one instruction, the same result
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
  return result;
#else
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t magnitude = value.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) {  // infinity, NaN
    return bits_to_float(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  }
  if (magnitude >= 0x400u) {  // normal: the exponent's bias grows from 15 to 127
    return bits_to_float(sign | ((magnitude << 13) + (112u << 23)));
  }
  const float subnormal = static_cast<float>(magnitude) * bits_to_float(0x33800000u);  // 2^-24
  return bits_to_float(sign | float_to_bits(subnormal));
#endif
}

MRCNN_HD static inline void from_float(float value, float* out) { *out = value; }

MRCNN_HD static inline void from_float(float value, BFloat16* out) {
  const uint32_t bits = float_to_bits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) {
    out->bits = static_cast<uint16_t>(bits >> 16 | 0x40u);  // a NaN stays a NaN, quiet
  } else {
    out->bits = static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
  }
}

MRCNN_HD static inline void from_float(float value, Half* out) {
#ifdef __CUDA_ARCH__
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out->bits) : "f"(value));
#else
  const uint32_t bits = float_to_bits(value);
  const uint32_t sign = bits >> 16 & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  uint32_t result;
  if (magnitude > 0x7f800000u) {
    result = 0x7e00u | (magnitude >> 13 & 0x3ffu);  // a NaN stays a NaN, quiet
  } else if (magnitude >= 0x477ff000u) {
    result = 0x7c00u;                     // 65520 and above round to infinity
  } else if (magnitude >= 0x38800000u) {  // normal in half precision
    result = (magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  } else {
    // After adding 0.5, the 10 bits of a subnormal half are the last bits of the fraction, rounded by the addition.
    result = float_to_bits(bits_to_float(magnitude) + 0.5f) - 0x3f000000u;
  }
  out->bits = static_cast<uint16_t>(sign | result);
#endif
}

}  // namespace mrcnn
