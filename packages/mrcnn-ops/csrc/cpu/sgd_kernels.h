// SGD on the CPU: eight elements at a time. Part of simd_kernels.cc.
#pragma once

#include "../sgd.h"
#include "kernels.h"
#include "simd.h"

namespace mrcnn {
namespace {

typedef double Double8 __attribute__((vector_size(64)));

double sum_of_squares(const SgdVariable& variable, SgdRange range, float scale) {
  const float *gradient = variable.gradient, *value = variable.value;
  Double8 sums{};
  int64_t i = range.begin;
  for (; i + kLanes <= range.end; i += kLanes) {
    const Float8 sum = with_decay(load(gradient + i), splat(scale), load(value + i), splat(variable.weight_decay));
    const Double8 wide = __builtin_convertvector(sum, Double8);
    sums += wide * wide;
  }
  double total = 0.0;
  for (int lane = 0; lane < kLanes; ++lane) total += sums[lane];
  for (; i < range.end; ++i) {
    const double rest = with_decay(gradient[i], scale, value[i], variable.weight_decay);
    total += rest * rest;
  }
  return total;
}

void sgd(const SgdVariable& variable, SgdRange range, const SgdStep& step) {
  const float rate = variable.rate_factor * step.rate, decay = variable.weight_decay;
  int64_t i = range.begin;
  for (; i + kLanes <= range.end; i += kLanes) {
    Float8 value = load(variable.value + i), momentum = load(variable.momentum + i);
    const Float8 gradient = with_decay(load(variable.gradient + i), splat(step.scale), value, splat(decay));
    sgd_element(gradient, splat(step.clip), splat(rate), splat(step.momentum), &value, &momentum);
    store(value, variable.new_value + i);
    store(momentum, variable.new_momentum + i);
  }
  for (; i < range.end; ++i) {
    float value = variable.value[i], momentum = variable.momentum[i];
    const float gradient = with_decay(variable.gradient[i], step.scale, value, decay);
    sgd_element(gradient, step.clip, rate, step.momentum, &value, &momentum);
    variable.new_value[i] = value;
    variable.new_momentum[i] = momentum;
  }
}

}  // namespace
}  // namespace mrcnn
