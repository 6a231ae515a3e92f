// Bilinear interpolation along one axis. Pixel i of a row of `size` pixels has its centre at position i.
#pragma once

#include "host_device.h"

namespace mrcnn {

struct LinearTaps {
  int low, high;                  // indices of the two pixels; equal at the edges
  float low_weight, high_weight;  // they add up to 1
};

// Positions beyond the first or last centre take the value of that pixel. `position` must be finite and `size` > 0.
MRCNN_HD static inline LinearTaps linear_taps(float position, int size) {
  const float last = static_cast<float>(size - 1);
  if (!(position > 0.0f)) return {0, 0, 1.0f, 0.0f};
  if (position >= last) return {size - 1, size - 1, 1.0f, 0.0f};
  const int low = static_cast<int>(position);
  const float fraction = position - static_cast<float>(low);
  return {low, low + 1, 1.0f - fraction, fraction};
}

}  // namespace mrcnn
