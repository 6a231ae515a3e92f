// Atomic updates of the grid's bodies. On the host the threads run one after the other.
//
// All but the sum of floats give the same result in any order.
#pragma once

#include <cstdint>

#include "../half.h"
#include "../host_device.h"

namespace mrcnn {

// Returns the value before.
MRCNN_HD static inline int atomic_add(int* address, int value) {
#ifdef __CUDA_ARCH__
  return atomicAdd(address, value);
#else
  const int before = *address;
  *address += value;
  return before;
#endif
}

MRCNN_HD static inline void atomic_add(float* address, float value) {
#ifdef __CUDA_ARCH__
  atomicAdd(address, value);
#else
  *address += value;
#endif
}

MRCNN_HD static inline void atomic_or(uint64_t* address, uint64_t value) {
#ifdef __CUDA_ARCH__
  static_assert(sizeof(unsigned long long) == sizeof(uint64_t), "");
  atomicOr(reinterpret_cast<unsigned long long*>(address), static_cast<unsigned long long>(value));
#else
  *address |= value;
#endif
}

// Both must not be negative (nor NaN): then floats are ordered as their bits.
MRCNN_HD static inline void atomic_max(float* address, float value) {
#ifdef __CUDA_ARCH__
  atomicMax(reinterpret_cast<unsigned int*>(address), float_to_bits(value));
#else
  if (value > *address) *address = value;
#endif
}

}  // namespace mrcnn
