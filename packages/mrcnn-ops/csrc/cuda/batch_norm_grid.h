// Folding of batch norm as a grid. Sums are made in one order, whatever the order of the blocks.
//
// K rows of C output channels.
#pragma once

#include "../batch_norm.h"
#include "block.h"

namespace mrcnn {

// One number of the folded kernel; the first C also make a number of the bias.
template <class T>
struct FoldElement {
  FoldShape shape;
  const float* kernel;
  BatchNorm norm;
  FoldOutputs<T> outputs;

  MRCNN_HD void operator()(int64_t i) const {
    if (i < shape.channels) outputs.bias[i] = folded_bias(norm, shape.epsilon, i);
    if (i >= shape.rows * shape.channels) return;
    from_float(kernel[i] * fold_scale(norm, shape.epsilon, i % shape.channels), outputs.kernel + i);
  }
};

// A block takes 32 channels of kFoldRows rows: 8 rows at a time, so that neighbours read neighbours.
template <class T>
struct FoldBackwardBlock {
  static constexpr int kThreads = 256;
  static constexpr int kChannels = 32;
  static constexpr int kLanes = kThreads / kChannels;

  FoldShape shape;
  FoldGradientInputs<T> inputs;
  BatchNorm norm;
  float* kernel_gradient;  // [K, C]
  float* product_sums;     // [row blocks, C]

  MRCNN_HD static int64_t channel_blocks(int64_t channels) { return (channels + kChannels - 1) / kChannels; }

  static size_t shared_bytes() { return kThreads * sizeof(float); }

  template <class Block>
  MRCNN_HD void operator()(Block& block, int64_t unit) const {
    float* sums = reinterpret_cast<float*>(block.shared_memory());
    const int64_t row_block = unit / channel_blocks(shape.channels);
    const int64_t first_channel = unit % channel_blocks(shape.channels) * kChannels;
    const int64_t begin = row_block * kFoldRows;
    const int64_t end = begin + kFoldRows < shape.rows ? begin + kFoldRows : shape.rows;
    block.for_each_thread([&](int thread) {
      const int64_t channel = first_channel + thread % kChannels;
      float sum = 0.0f;
      if (channel < shape.channels) {
        const float scale = fold_scale(norm, shape.epsilon, channel);
        for (int64_t row = begin + thread / kChannels; row < end; row += kLanes) {
          const int64_t i = row * shape.channels + channel;
          const float gradient = to_float(inputs.folded_gradient[i]);
          kernel_gradient[i] = gradient * scale;
          sum += inputs.kernel[i] * gradient;
        }
      }
      sums[thread] = sum;
    });
    block.for_each_thread([&](int thread) {
      const int64_t channel = first_channel + thread;
      if (thread >= kChannels || channel >= shape.channels) return;
      float sum = 0.0f;
      for (int lane = 0; lane < kLanes; ++lane) sum += sums[lane * kChannels + thread];
      product_sums[row_block * shape.channels + channel] = sum;
    });
  }
};

// The gradients of one channel's gamma and beta.
struct FoldBackwardChannel {
  FoldShape shape;
  const float* bias_gradient;
  BatchNorm norm;
  const float* product_sums;  // [row blocks, C]
  FoldGradients gradients;

  MRCNN_HD void operator()(int64_t channel) const {
    double sum = 0.0;
    for (int64_t block = 0; block < fold_row_blocks(shape.rows); ++block) {
      sum += product_sums[block * shape.channels + channel];
    }
    gradients.gamma[channel] = gamma_gradient(norm, shape.epsilon, channel, sum, bias_gradient[channel]);
    gradients.beta[channel] = bias_gradient[channel];
  }
};

// ---- the launches ----

inline size_t fold_backward_scratch_bytes(const FoldShape& shape) {
  return fold_row_blocks(shape.rows) * shape.channels * sizeof(float);
}

template <class Grid, class T>
void fold_on(Grid& grid, const FoldShape& shape, const float* kernel, const BatchNorm& norm,
             const FoldOutputs<T>& outputs) {
  const int64_t count = shape.rows * shape.channels;
  grid.run_elements(FoldElement<T>{shape, kernel, norm, outputs}, count < shape.channels ? shape.channels : count);
}

template <class Grid, class T>
void fold_backward_on(Grid& grid, const FoldShape& shape, const FoldGradientInputs<T>& inputs, const BatchNorm& norm,
                      const FoldGradients& gradients, void* memory) {
  float* product_sums = static_cast<float*>(memory);
  using Block = FoldBackwardBlock<T>;
  grid.run_blocks(Block{shape, inputs, norm, gradients.kernel, product_sums},
                  fold_row_blocks(shape.rows) * Block::channel_blocks(shape.channels));
  grid.run_elements(FoldBackwardChannel{shape, inputs.bias_gradient, norm, product_sums, gradients}, shape.channels);
}

}  // namespace mrcnn
