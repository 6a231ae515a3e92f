// Group normalisation, optionally with ReLU, and its gradient: what the CPU and the CUDA kernels share.
//
// N images, P positions, C channels in G groups. y = x scale + shift, with scale and shift of each image and channel.
#pragma once

#include <cmath>
#include <cstdint>

#include "half.h"
#include "host_device.h"

namespace mrcnn {

struct GroupNormShape {
  int64_t images, positions, channels;
  int64_t groups;
  float epsilon;
  bool relu;  // y = max(y, 0)

  MRCNN_HD int64_t channels_of_group() const { return channels / groups; }
  // Numbers of an image's group; 1 where there are none, so that their mean is 0.
  MRCNN_HD double count() const {
    const int64_t numbers = positions * channels_of_group();
    return numbers > 0 ? static_cast<double>(numbers) : 1.0;
  }
};

// Of each image and group, [N, G].
struct GroupStatistics {
  float* mean;
  float* inverse_deviation;
};

// Positions of which one sum is made in float32; the sums are added in float64. So the result does not depend on the
// number of threads or blocks.
constexpr int64_t kNormPositions = 256;

MRCNN_HD inline int64_t norm_chunks(int64_t positions) { return (positions + kNormPositions - 1) / kNormPositions; }

struct Affine {
  float scale, shift;
};

MRCNN_HD inline Affine norm_affine(float gamma, float beta, float mean, float inverse_deviation) {
  const float scale = gamma * inverse_deviation;
  return {scale, beta - mean * scale};
}

MRCNN_HD inline float inverse_deviation_of(double mean, double mean_square, float epsilon) {
  const double variance = mean_square - mean * mean;
  return static_cast<float>(1.0 / sqrt((variance > 0.0 ? variance : 0.0) + epsilon));
}

// What the passes read; the forward pass has no dy.
template <class T>
struct NormInputs {
  const T* x;
  const T* dy;
  const float* gamma;
  const float* beta;
  const float* mean;               // [N, G]
  const float* inverse_deviation;  // [N, G]
};

template <class T>
MRCNN_HD inline Affine affine_of(const GroupNormShape& shape, const NormInputs<T>& inputs, int64_t image,
                                 int64_t channel) {
  const int64_t group = image * shape.groups + channel / shape.channels_of_group();
  return norm_affine(inputs.gamma[channel], inputs.beta[channel], inputs.mean[group], inputs.inverse_deviation[group]);
}

// The gradient of x is dy scale + x x_scale + shift. With r the inverse deviation and xhat = (x - mean) r:
// dx = r (gamma dy - A - xhat B), where A and B are the group's means of gamma dy and of gamma dy xhat.
struct NormBackward {
  float x_scale, shift;
};

MRCNN_HD inline NormBackward norm_backward(double mean_a, double mean_b, double mean, double inverse_deviation) {
  const double x_scale = -inverse_deviation * inverse_deviation * mean_b;
  return {static_cast<float>(x_scale), static_cast<float>(-inverse_deviation * mean_a - mean * x_scale)};
}

}  // namespace mrcnn
