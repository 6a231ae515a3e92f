// Pasting a predicted M x M mask into its box: which pixels, and which position of the mask each one samples.
#pragma once

#include <cmath>

#include "box.h"
#include "host_device.h"

namespace mrcnn {

// The pixels along one axis that a box touches, within an image of `size`: [begin, end). Bounded before the conversion,
// so that it works for any finite box.
struct PixelRange {
  int begin, end;
};

MRCNN_HD static inline PixelRange touched_pixels(float low, float high, int size) {
  const float limit = static_cast<float>(size);
  const int begin = static_cast<int>(smaller(larger(floorf(low), 0.0f), limit));
  const int end = static_cast<int>(smaller(larger(ceilf(high), 0.0f), limit));
  return {begin, end < begin ? begin : end};
}

// Where the centre of a pixel lies on the mask, in mask pixels, whose centres are at whole numbers. linear_taps then
// clamps it to the mask's edge, so that a mask of ones fills its box.
MRCNN_HD static inline float mask_position(int pixel, float low, float length, int mask_size) {
  return (static_cast<float>(pixel) + 0.5f - low) / length * static_cast<float>(mask_size) - 0.5f;
}

}  // namespace mrcnn
