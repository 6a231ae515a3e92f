// Group norm as a grid. Sums are made in one order, whatever the order of the blocks.
//
// N images, P positions, C channels in G groups.
#pragma once

#include "../group_norm.h"
#include "sums.h"

namespace mrcnn {

// Two sums for each channel of each chunk of positions: [N, chunks, C].
struct ChannelSums {
  float* first;
  float* second;
};

// What one position and channel adds to the two sums.
template <class T>
struct ForwardTerms {
  const T* x;

  MRCNN_HD void add(int64_t i, int64_t, int64_t, float* first, float* second) const {
    const float v = to_float(x[i]);
    *first += v;
    *second += v * v;
  }
};

// The gradient behind the ReLU.
template <class T>
MRCNN_HD inline float gradient_before_relu(const GroupNormShape& shape, const NormInputs<T>& inputs, int64_t i,
                                           const Affine& affine) {
  const float gradient = to_float(inputs.dy[i]);
  if (!shape.relu) return gradient;
  return to_float(inputs.x[i]) * affine.scale + affine.shift > 0.0f ? gradient : 0.0f;
}

template <class T>
struct BackwardTerms {
  GroupNormShape shape;
  NormInputs<T> inputs;

  MRCNN_HD void add(int64_t i, int64_t image, int64_t channel, float* first, float* second) const {
    const float gradient = gradient_before_relu(shape, inputs, i, affine_of(shape, inputs, image, channel));
    *first += gradient;
    *second += gradient * to_float(inputs.x[i]);
  }
};

// A block takes 32 channels of one chunk of positions: 8 positions at a time, so that neighbours read neighbours.
template <class Terms>
struct ChannelSumsBlock {
  static constexpr int kThreads = 256;
  static constexpr int kChannels = 32;
  static constexpr int kLanes = kThreads / kChannels;

  GroupNormShape shape;
  Terms terms;
  ChannelSums sums;

  MRCNN_HD static int64_t channel_blocks(const GroupNormShape& shape) {
    return (shape.channels + kChannels - 1) / kChannels;
  }

  MRCNN_HD static int64_t num_blocks(const GroupNormShape& shape) {
    return shape.images * norm_chunks(shape.positions) * channel_blocks(shape);
  }

  static size_t shared_bytes() { return 2 * kThreads * sizeof(float); }

  template <class Block>
  MRCNN_HD void operator()(Block& block, int64_t unit) const {
    float* firsts = reinterpret_cast<float*>(block.shared_memory());
    float* seconds = firsts + kThreads;
    const int64_t first_channel = unit % channel_blocks(shape) * kChannels;
    const int64_t row = unit / channel_blocks(shape);  // image, chunk
    const int64_t image = row / norm_chunks(shape.positions);
    const int64_t begin = row % norm_chunks(shape.positions) * kNormPositions;
    const int64_t end = begin + kNormPositions < shape.positions ? begin + kNormPositions : shape.positions;
    block.for_each_thread([&](int thread) {
      const int64_t channel = first_channel + thread % kChannels;
      float first = 0.0f, second = 0.0f;
      if (channel < shape.channels) {
        for (int64_t position = begin + thread / kChannels; position < end; position += kLanes) {
          terms.add((image * shape.positions + position) * shape.channels + channel, image, channel, &first, &second);
        }
      }
      firsts[thread] = first;
      seconds[thread] = second;
    });
    block.for_each_thread([&](int thread) {
      const int64_t channel = first_channel + thread;
      if (thread >= kChannels || channel >= shape.channels) return;
      float first = 0.0f, second = 0.0f;
      for (int lane = 0; lane < kLanes; ++lane) {
        first += firsts[lane * kChannels + thread];
        second += seconds[lane * kChannels + thread];
      }
      sums.first[row * shape.channels + channel] = first;
      sums.second[row * shape.channels + channel] = second;
    });
  }
};

// Adds up two numbers of each chunk and channel of one image's group; unit = image * groups + group.
template <class Finish>
struct GroupBlock {
  static constexpr int kThreads = 256;

  GroupNormShape shape;
  ChannelSums sums;
  Finish finish;

  static size_t shared_bytes() { return 2 * kThreads * sizeof(double); }

  template <class Block>
  MRCNN_HD void operator()(Block& block, int64_t unit) const {
    double* firsts = reinterpret_cast<double*>(block.shared_memory());
    double* seconds = firsts + kThreads;
    const int64_t image = unit / shape.groups, width = shape.channels_of_group();
    const int64_t first_channel = unit % shape.groups * width, chunks = norm_chunks(shape.positions);
    block.for_each_thread([&](int thread) {
      double first = 0.0, second = 0.0;
      for (int64_t i = thread; i < chunks * width; i += kThreads) {
        const int64_t channel = first_channel + i % width;
        const int64_t at = (image * chunks + i / width) * shape.channels + channel;
        first += finish.weight(channel) * sums.first[at];
        second += finish.weight(channel) * sums.second[at];
      }
      firsts[thread] = first;
      seconds[thread] = second;
    });
    add_up<kThreads>(block, firsts);
    add_up<kThreads>(block, seconds);
    block.for_each_thread([&](int thread) {
      if (thread == 0) finish(unit, firsts[0] / shape.count(), seconds[0] / shape.count());
    });
  }
};

struct FinishStatistics {
  float epsilon;
  GroupStatistics statistics;

  MRCNN_HD double weight(int64_t) const { return 1.0; }
  MRCNN_HD void operator()(int64_t unit, double mean, double mean_square) const {
    statistics.mean[unit] = static_cast<float>(mean);
    statistics.inverse_deviation[unit] = inverse_deviation_of(mean, mean_square, epsilon);
  }
};

struct FinishBackward {
  const float* gamma;
  const float* mean;
  const float* inverse_deviation;
  NormBackward* backward;  // [N, G]

  MRCNN_HD double weight(int64_t channel) const { return gamma[channel]; }
  MRCNN_HD void operator()(int64_t unit, double mean_dy, double mean_dy_x) const {
    const double r = inverse_deviation[unit];
    backward[unit] = norm_backward(mean_dy, (mean_dy_x - mean[unit] * mean_dy) * r, mean[unit], r);
  }
};

template <class T>
struct NormElement {
  GroupNormShape shape;
  NormInputs<T> inputs;
  T* y;

  MRCNN_HD void operator()(int64_t i) const {
    const Affine affine = affine_of(shape, inputs, i / (shape.positions * shape.channels), i % shape.channels);
    const float v = to_float(inputs.x[i]) * affine.scale + affine.shift;
    from_float(shape.relu ? (v > 0.0f ? v : 0.0f) : v, y + i);
  }
};

template <class T>
struct NormBackwardElement {
  GroupNormShape shape;
  NormInputs<T> inputs;
  const NormBackward* backward;  // [N, G]
  T* dx;

  MRCNN_HD void operator()(int64_t i) const {
    const int64_t image = i / (shape.positions * shape.channels), channel = i % shape.channels;
    const Affine affine = affine_of(shape, inputs, image, channel);
    const NormBackward& terms = backward[image * shape.groups + channel / shape.channels_of_group()];
    const float gradient = gradient_before_relu(shape, inputs, i, affine);
    from_float(gradient * affine.scale + (to_float(inputs.x[i]) * terms.x_scale + terms.shift), dx + i);
  }
};

// The gradients of one channel's gamma and beta, over all images.
struct NormParametersBlock {
  static constexpr int kThreads = 256;

  GroupNormShape shape;
  ChannelSums sums;
  const float* mean;
  const float* inverse_deviation;
  float* dgamma;
  float* dbeta;

  static size_t shared_bytes() { return 2 * kThreads * sizeof(double); }

  template <class Block>
  MRCNN_HD void operator()(Block& block, int64_t channel) const {
    double* gammas = reinterpret_cast<double*>(block.shared_memory());
    double* betas = gammas + kThreads;
    const int64_t chunks = norm_chunks(shape.positions);
    block.for_each_thread([&](int thread) {
      double gamma = 0.0, beta = 0.0;
      for (int64_t row = thread; row < shape.images * chunks; row += kThreads) {
        const int64_t group = row / chunks * shape.groups + channel / shape.channels_of_group();
        const double dy = sums.first[row * shape.channels + channel];
        const double dy_x = sums.second[row * shape.channels + channel];
        gamma += (dy_x - mean[group] * dy) * inverse_deviation[group];
        beta += dy;
      }
      gammas[thread] = gamma;
      betas[thread] = beta;
    });
    add_up<kThreads>(block, gammas);
    add_up<kThreads>(block, betas);
    block.for_each_thread([&](int thread) {
      if (thread > 0) return;
      dgamma[channel] = static_cast<float>(gammas[0]);
      dbeta[channel] = static_cast<float>(betas[0]);
    });
  }
};

// ---- the launches ----

struct GroupNormScratch {
  ChannelSums sums;
  NormBackward* backward;

  GroupNormScratch(const GroupNormShape& shape, Divider* memory) {
    const int64_t count = shape.images * norm_chunks(shape.positions) * shape.channels;
    sums = {memory->take<float>(count), memory->take<float>(count)};
    backward = memory->take<NormBackward>(shape.images * shape.groups);
  }
};

template <class Grid, class T>
void group_norm_on(Grid& grid, const GroupNormShape& shape, const T* x, const float* gamma, const float* beta, T* y,
                   const GroupStatistics& statistics, void* memory) {
  Divider divider(memory);
  const GroupNormScratch scratch(shape, &divider);
  using Sums = ChannelSumsBlock<ForwardTerms<T>>;
  grid.run_blocks(Sums{shape, {x}, scratch.sums}, Sums::num_blocks(shape));
  grid.run_blocks(GroupBlock<FinishStatistics>{shape, scratch.sums, {shape.epsilon, statistics}},
                  shape.images * shape.groups);
  const NormInputs<T> inputs = {x, nullptr, gamma, beta, statistics.mean, statistics.inverse_deviation};
  grid.run_elements(NormElement<T>{shape, inputs, y}, shape.images * shape.positions * shape.channels);
}

template <class Grid, class T>
void group_norm_backward_on(Grid& grid, const GroupNormShape& shape, const NormInputs<T>& inputs, T* dx, float* dgamma,
                            float* dbeta, void* memory) {
  Divider divider(memory);
  const GroupNormScratch scratch(shape, &divider);
  using Sums = ChannelSumsBlock<BackwardTerms<T>>;
  grid.run_blocks(Sums{shape, {shape, inputs}, scratch.sums}, Sums::num_blocks(shape));
  const FinishBackward finish = {inputs.gamma, inputs.mean, inputs.inverse_deviation, scratch.backward};
  grid.run_blocks(GroupBlock<FinishBackward>{shape, scratch.sums, finish}, shape.images * shape.groups);
  grid.run_blocks(NormParametersBlock{shape, scratch.sums, inputs.mean, inputs.inverse_deviation, dgamma, dbeta},
                  shape.channels);
  grid.run_elements(NormBackwardElement<T>{shape, inputs, scratch.backward, dx},
                    shape.images * shape.positions * shape.channels);
}

}  // namespace mrcnn
