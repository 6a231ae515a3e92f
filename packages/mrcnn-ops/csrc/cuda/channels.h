// V neighbouring channels of a pixel, read and written with one instruction.
#pragma once

#include <cmath>
#include <cstdint>

#include "../half.h"
#include "../host_device.h"

namespace mrcnn {

template <class T, int V>
struct alignas(sizeof(T) * V) Channels {
  T values[V];
};

// How many channels 16 bytes hold.
template <class T>
constexpr int channels_per_load() {
  return static_cast<int>(16 / sizeof(T));
}

inline bool is_aligned_for_loads(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

// sums[v] += weight * pixel[v], fused as the CPU's AVX2 kernel fuses.
template <int V, class T>
MRCNN_HD static inline void add_channels(float weight, const T* pixel, float* sums) {
  const Channels<T, V> loaded = *reinterpret_cast<const Channels<T, V>*>(pixel);
  MRCNN_UNROLL
  for (int v = 0; v < V; ++v) sums[v] = fmaf(weight, to_float(loaded.values[v]), sums[v]);
}

template <int V, class T>
MRCNN_HD static inline void store_channels(const float* sums, T* pixel) {
  Channels<T, V> stored;
  MRCNN_UNROLL
  for (int v = 0; v < V; ++v) from_float(sums[v], &stored.values[v]);
  *reinterpret_cast<Channels<T, V>*>(pixel) = stored;
}

}  // namespace mrcnn
