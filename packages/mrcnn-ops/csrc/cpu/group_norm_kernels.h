// Group norm on the CPU: row by row, eight channels at a time. Part of simd_kernels.cc.
#pragma once

#include "../group_norm.h"
#include "kernels.h"
#include "simd.h"

namespace mrcnn {
namespace {

// Formulas over channels are written once, for eight lanes and for a single one.
struct Eight {
  template <class T>
  static Float8 load(const T* p) {
    return mrcnn::load(p);
  }
  template <class T>
  static void store(Float8 v, T* p) {
    mrcnn::store(v, p);
  }
};

struct One {
  template <class T>
  static float load(const T* p) {
    return to_float(*p);
  }
  template <class T>
  static void store(float v, T* p) {
    from_float(v, p);
  }
};

template <class Body>
inline void for_channels(int64_t channels, const Body& body) {
  int64_t c = 0;
  for (; c + kLanes <= channels; c += kLanes) body(Eight(), c);
  for (; c < channels; ++c) body(One(), c);
}

template <class V>
inline V positive_part(V v) {
  return v > V{} ? v : V{};
}

template <class T>
void norm_sums(const T* x, int64_t positions, int64_t channels, float* sums, float* squares) {
  memset(sums, 0, channels * sizeof(float));
  memset(squares, 0, channels * sizeof(float));
  for (int64_t position = 0; position < positions; ++position, x += channels) {
    for_channels(channels, [&](auto lane, int64_t c) {
      const auto v = lane.load(x + c);
      lane.store(lane.load(sums + c) + v, sums + c);
      lane.store(lane.load(squares + c) + v * v, squares + c);
    });
  }
}

template <class T>
void norm_apply(const T* x, const float* scale, const float* shift, bool relu, int64_t positions, int64_t channels,
                T* y) {
  for (int64_t position = 0; position < positions; ++position, x += channels, y += channels) {
    for_channels(channels, [&](auto lane, int64_t c) {
      const auto v = lane.load(x + c) * lane.load(scale + c) + lane.load(shift + c);
      lane.store(relu ? positive_part(v) : v, y + c);
    });
  }
}

// The gradient behind the ReLU.
template <class Lane, class T>
inline auto gradient_before_relu(Lane lane, const T* x, const T* dy, const float* scale, const float* shift,
                                 bool relu) {
  const auto gradient = lane.load(dy);
  if (!relu) return gradient;
  const auto y = lane.load(x) * lane.load(scale) + lane.load(shift);
  return y > decltype(y){} ? gradient : decltype(gradient){};
}

template <class T>
void norm_backward_sums(const T* x, const T* dy, const float* scale, const float* shift, bool relu, int64_t positions,
                        int64_t channels, float* sums, float* products) {
  memset(sums, 0, channels * sizeof(float));
  memset(products, 0, channels * sizeof(float));
  for (int64_t position = 0; position < positions; ++position, x += channels, dy += channels) {
    for_channels(channels, [&](auto lane, int64_t c) {
      const auto gradient = gradient_before_relu(lane, x + c, dy + c, scale + c, shift + c, relu);
      lane.store(lane.load(sums + c) + gradient, sums + c);
      lane.store(lane.load(products + c) + gradient * lane.load(x + c), products + c);
    });
  }
}

template <class T>
void norm_backward_apply(const T* x, const T* dy, const float* scale, const float* shift, bool relu,
                         const float* x_scale, const float* dx_shift, int64_t positions, int64_t channels, T* dx) {
  for (int64_t position = 0; position < positions; ++position, x += channels, dy += channels, dx += channels) {
    for_channels(channels, [&](auto lane, int64_t c) {
      const auto gradient = gradient_before_relu(lane, x + c, dy + c, scale + c, shift + c, relu);
      lane.store(
          gradient * lane.load(scale + c) + (lane.load(x + c) * lane.load(x_scale + c) + lane.load(dx_shift + c)),
          dx + c);
    });
  }
}

}  // namespace
}  // namespace mrcnn
