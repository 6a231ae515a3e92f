// SGD with momentum and weight decay for all variables at once: what the CPU and the CUDA kernels share.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace mrcnn {

// One variable. Results may be written over the old values. For the norm, only the first four are read.
struct SgdVariable {
  const float* gradient;
  const float* value;
  int64_t count;  // elements
  float weight_decay;
  float rate_factor;  // the rate of the step is multiplied by this
  const float* momentum;
  float* new_value;
  float* new_momentum;
};

// The numbers of an update. Pointers are to single numbers, on a GPU in its memory, so that the host does not wait.
struct SgdNumbers {
  const float* scale;  // of the gradients
  const float* clip;   // of the gradients with weight decay
  const float* rate;
  const bool* is_taken;  // false: all values stay
  float momentum;
};

// A variable is divided into chunks, each for one block of threads or one turn of a loop.
constexpr int64_t kSgdChunk = 16384;

MRCNN_HD inline int64_t sgd_chunks(int64_t count) { return (count + kSgdChunk - 1) / kSgdChunk; }

struct SgdRange {
  int64_t begin, end;  // elements
};

MRCNN_HD inline SgdRange sgd_range(int64_t count, int64_t chunk) {
  const int64_t begin = chunk * kSgdChunk, end = begin + kSgdChunk;
  return {begin, end < count ? end : count};
}

// Arithmetic, for V = float or a vector of floats.

template <class V>
MRCNN_HD inline V with_decay(V gradient, V scale, V value, V weight_decay) {
  return gradient * scale + weight_decay * value;
}

template <class V>
MRCNN_HD inline void sgd_element(V gradient, V clip, V rate, V friction, V* value, V* momentum) {
  *momentum = friction * *momentum + gradient * clip;
  *value = *value - rate * *momentum;
}

}  // namespace mrcnn
