// Eight floats at a time, by the compiler's vector extension: AVX2 registers where the file is compiled for AVX2, pairs
// of SSE or NEON registers elsewhere. Only simd_kernels.cc includes this.
#pragma once

#include <cstdint>
#include <cstring>

#ifdef __AVX2__
#include <immintrin.h>
#endif

#include "../half.h"

namespace mrcnn {
namespace {

constexpr int kLanes = 8;

typedef float Float8 __attribute__((vector_size(32)));
typedef int32_t Int8 __attribute__((vector_size(32)));
typedef uint32_t UInt8 __attribute__((vector_size(32)));
typedef uint16_t UShort8 __attribute__((vector_size(16)));

inline Float8 splat(float x) { return Float8{x, x, x, x, x, x, x, x}; }
inline Int8 splat(int32_t x) { return Int8{x, x, x, x, x, x, x, x}; }

template <class V, class T>
inline V load_vector(const T* p) {
  V v;
  memcpy(&v, p, sizeof(v));
  return v;
}

template <class V, class T>
inline void store_vector(V v, T* p) {
  memcpy(p, &v, sizeof(v));
}

// True where any lane of a comparison's result is set.
inline bool any(Int8 mask) {
#ifdef __AVX2__
  return _mm256_movemask_ps(reinterpret_cast<__m256>(mask)) != 0;
#else
  typedef int64_t Long4 __attribute__((vector_size(32)));
  const Long4 pairs = reinterpret_cast<Long4>(mask);
  return (pairs[0] | pairs[1] | pairs[2] | pairs[3]) != 0;
#endif
}

inline float greatest(Float8 v) {
  float result = v[0];
  for (int i = 1; i < kLanes; ++i) result = v[i] > result ? v[i] : result;
  return result;
}

// a * b + c
inline Float8 multiply_add(Float8 a, Float8 b, Float8 c) {
#ifdef __FMA__
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}

inline Float8 load(const float* p) { return load_vector<Float8>(p); }

inline Float8 load(const BFloat16* p) {
  const UInt8 bits = __builtin_convertvector(load_vector<UShort8>(p), UInt8) << 16;
  return reinterpret_cast<Float8>(bits);
}

inline Float8 load(const Half* p) {
#ifdef __F16C__
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
  Float8 v;
  for (int i = 0; i < kLanes; ++i) v[i] = to_float(p[i]);
  return v;
#endif
}

inline void store(Float8 v, float* p) { store_vector(v, p); }

inline void store(Float8 v, BFloat16* p) {
  const UInt8 bits = reinterpret_cast<UInt8>(v);
  const UInt8 rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  const UInt8 quiet = bits >> 16 | 0x40u;
  const UInt8 result = (bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded;
  store_vector(__builtin_convertvector(result, UShort8), p);
}

inline void store(Float8 v, Half* p) {
#ifdef __F16C__
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
#else
  for (int i = 0; i < kLanes; ++i) from_float(v[i], p + i);
#endif
}

}  // namespace
}  // namespace mrcnn
