// Folding of a batch norm with fixed statistics into the convolution before it, and the gradient of that: what the CPU
// and the CUDA kernels share.
//
// A kernel [kh, kw, C_in, C] is seen as K rows of C output channels.
#pragma once

#include <cmath>
#include <cstdint>

#include "half.h"
#include "host_device.h"

namespace mrcnn {

struct FoldShape {
  int64_t rows;      // K
  int64_t channels;  // C
  float epsilon;
};

struct BatchNorm {
  const float* gamma;     // [C]
  const float* beta;      // [C]; not read for the gradient
  const float* mean;      // [C]
  const float* variance;  // [C]
};

// T: float, Half, BFloat16.
template <class T>
struct FoldOutputs {
  T* kernel;    // [K, C]
  float* bias;  // [C]
};

template <class T>
struct FoldGradientInputs {
  const float* kernel;         // [K, C]
  const T* folded_gradient;    // [K, C], of the folded kernel
  const float* bias_gradient;  // [C], of the folded bias
};

struct FoldGradients {
  float* kernel;  // [K, C]
  float* gamma;   // [C]
  float* beta;    // [C]
};

// Rows of which one sum is made in float32; the sums are added in float64. So the result does not depend on the number
// of threads or blocks.
constexpr int64_t kFoldRows = 256;

MRCNN_HD inline int64_t fold_row_blocks(int64_t rows) { return (rows + kFoldRows - 1) / kFoldRows; }

MRCNN_HD inline float inverse_deviation(const BatchNorm& norm, float epsilon, int64_t channel) {
  return 1.0f / sqrtf(norm.variance[channel] + epsilon);
}

MRCNN_HD inline float fold_scale(const BatchNorm& norm, float epsilon, int64_t channel) {
  return norm.gamma[channel] * inverse_deviation(norm, epsilon, channel);
}

MRCNN_HD inline float folded_bias(const BatchNorm& norm, float epsilon, int64_t channel) {
  return norm.beta[channel] - norm.mean[channel] * fold_scale(norm, epsilon, channel);
}

// product_sum: over the rows, of kernel times the gradient of the folded kernel.
MRCNN_HD inline float gamma_gradient(const BatchNorm& norm, float epsilon, int64_t channel, double product_sum,
                                     float bias_gradient) {
  const double of_scale = product_sum - static_cast<double>(norm.mean[channel]) * bias_gradient;
  return static_cast<float>(of_scale * inverse_deviation(norm, epsilon, channel));
}

}  // namespace mrcnn
