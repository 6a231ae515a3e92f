// Boxes: (x1, y1, x2, y2), float32 pixels, continuous (width = x2 - x1). The IoU, decode and clip rules of every op.
//
// The functions are templates over F, which is float or a vector of floats (cpu/simd.h): the rule is the same for one
// box and for eight.
#pragma once

#include "exponential.h"
#include "host_device.h"

namespace mrcnn {

template <class F>
struct BoxOf {
  F x1, y1, x2, y2;
};

using Box = BoxOf<float>;
static_assert(sizeof(Box) == 4 * sizeof(float), "a row of a [.., 4] tensor is read as a Box");

// With a NaN among the two, the second.
template <class F>
MRCNN_HD static inline F smaller(F a, F b) {
  return a < b ? a : b;
}

template <class F>
MRCNN_HD static inline F larger(F a, F b) {
  return a > b ? a : b;
}

template <class F>
MRCNN_HD static inline F area(const BoxOf<F>& box) {
  return (box.x2 - box.x1) * (box.y2 - box.y1);
}

template <class F>
MRCNN_HD static inline F intersection(const BoxOf<F>& a, const BoxOf<F>& b) {
  const F width = larger(smaller(a.x2, b.x2) - larger(a.x1, b.x1), F{});
  const F height = larger(smaller(a.y2, b.y2) - larger(a.y1, b.y1), F{});
  return width * height;
}

// Part / whole, and 0 where the part is empty: two boxes of zero area have IoU 0, not 0/0.
template <class F>
MRCNN_HD static inline F share(F part, F whole) {
  return part > F{} ? part / whole : F{};
}

// Intersection over union; the areas are passed in because one side is used many times. NaN coordinates give 0 or NaN,
// and neither is ever above a threshold.
template <class F>
MRCNN_HD static inline F iou(const BoxOf<F>& a, F area_a, const BoxOf<F>& b, F area_b) {
  const F part = intersection(a, b);
  return share(part, area_a + area_b - part);
}

MRCNN_HD static inline bool is_finite(float value) { return value - value == 0.0f; }

MRCNN_HD static inline bool is_finite(const Box& box) {
  return is_finite(box.x1) && is_finite(box.y1) && is_finite(box.x2) && is_finite(box.y2);
}

// (dx, dy, dw, dh) of Faster R-CNN (section 3.1.2), with dw and dh bounded above so that exp cannot overflow. A NaN
// stays a NaN.
MRCNN_HD static inline Box decode(const Box& anchor, const float* delta, float max_log_scale) {
  const float width = anchor.x2 - anchor.x1;
  const float height = anchor.y2 - anchor.y1;
  const float center_x = delta[0] * width + (anchor.x1 + 0.5f * width);
  const float center_y = delta[1] * height + (anchor.y1 + 0.5f * height);
  const float half_width = 0.5f * (exponential(delta[2] > max_log_scale ? max_log_scale : delta[2]) * width);
  const float half_height = 0.5f * (exponential(delta[3] > max_log_scale ? max_log_scale : delta[3]) * height);
  return {center_x - half_width, center_y - half_height, center_x + half_width, center_y + half_height};
}

MRCNN_HD static inline Box clip(const Box& box, float height, float width) {
  return {smaller(larger(box.x1, 0.0f), width), smaller(larger(box.y1, 0.0f), height),
          smaller(larger(box.x2, 0.0f), width), smaller(larger(box.y2, 0.0f), height)};
}

}  // namespace mrcnn
