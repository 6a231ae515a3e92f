// Folding of batch norm on the CPU: eight channels at a time. Part of simd_kernels.cc.
#pragma once

#include "../batch_norm.h"
#include "kernels.h"
#include "simd.h"

namespace mrcnn {
namespace {

template <class T>
void fold_rows(const float* kernel, const float* scale, int64_t rows, int64_t channels, T* folded) {
  for (int64_t row = 0; row < rows; ++row, kernel += channels, folded += channels) {
    int64_t c = 0;
    for (; c + kLanes <= channels; c += kLanes) store(load(kernel + c) * load(scale + c), folded + c);
    for (; c < channels; ++c) from_float(kernel[c] * scale[c], folded + c);
  }
}

template <class T>
void fold_rows_backward(const float* kernel, const T* folded_gradient, const float* scale, int64_t rows,
                        int64_t channels, float* kernel_gradient, float* product_sums) {
  memset(product_sums, 0, channels * sizeof(float));
  for (int64_t row = 0; row < rows; ++row) {
    int64_t c = 0;
    for (; c + kLanes <= channels; c += kLanes) {
      const Float8 gradient = load(folded_gradient + c);
      store(gradient * load(scale + c), kernel_gradient + c);
      store(load(product_sums + c) + load(kernel + c) * gradient, product_sums + c);
    }
    for (; c < channels; ++c) {
      const float gradient = to_float(folded_gradient[c]);
      kernel_gradient[c] = gradient * scale[c];
      product_sums[c] = product_sums[c] + kernel[c] * gradient;
    }
    kernel += channels, folded_gradient += channels, kernel_gradient += channels;
  }
}

}  // namespace
}  // namespace mrcnn
