// SGD as a grid: one launch for many variables. Sums do not depend on the order in which blocks run.
#pragma once

#include <cmath>

#include "../sgd.h"
#include "sums.h"

namespace mrcnn {

// As many variables as fit into the arguments of a kernel (4 KB), and the first chunk of each.
struct SgdGroup {
  static constexpr int kMost = 32;

  SgdVariable variables[kMost];
  int64_t first_chunk[kMost + 1];
  int count = 0;

  SgdGroup(const SgdVariable* first, int num_variables) {
    first_chunk[0] = 0;
    for (; count < kMost && count < num_variables; ++count) {
      variables[count] = first[count];
      first_chunk[count + 1] = first_chunk[count] + sgd_chunks(first[count].count);
    }
  }

  int64_t num_chunks() const { return first_chunk[count]; }

  MRCNN_HD int variable_of(int64_t chunk) const {
    int found = 0;
    while (chunk >= first_chunk[found + 1]) ++found;  // variables without elements have no chunk
    return found;
  }
};

constexpr int kSgdThreads = 256;

// The sum of the squares of one chunk; unit = chunk of the group.
struct SquaresBlock {
  static constexpr int kThreads = kSgdThreads;

  SgdGroup group;
  const float* scale;
  double* chunk_sums;  // of the group's chunks

  static size_t shared_bytes() { return kThreads * sizeof(double); }

  template <class Block>
  MRCNN_HD void operator()(Block& block, int64_t unit) const {
    double* sums = reinterpret_cast<double*>(block.shared_memory());
    const int index = group.variable_of(unit);
    const SgdVariable& variable = group.variables[index];
    const SgdRange range = sgd_range(variable.count, unit - group.first_chunk[index]);
    block.for_each_thread([&](int thread) {
      double sum = 0.0;
      for (int64_t i = range.begin + thread; i < range.end; i += kThreads) {
        const double element = with_decay(variable.gradient[i], *scale, variable.value[i], variable.weight_decay);
        sum += element * element;
      }
      sums[thread] = sum;
    });
    add_up<kThreads>(block, sums);
    block.for_each_thread([&](int thread) {
      if (thread == 0) chunk_sums[unit] = sums[0];
    });
  }
};

// The norm from the sums of all chunks; one unit.
struct NormBlock {
  static constexpr int kThreads = kSgdThreads;

  const double* chunk_sums;
  int64_t num_chunks;
  float* norm;

  static size_t shared_bytes() { return kThreads * sizeof(double); }

  template <class Block>
  MRCNN_HD void operator()(Block& block, int64_t) const {
    double* sums = reinterpret_cast<double*>(block.shared_memory());
    block.for_each_thread([&](int thread) {
      double sum = 0.0;
      for (int64_t i = thread; i < num_chunks; i += kThreads) sum += chunk_sums[i];
      sums[thread] = sum;
    });
    add_up<kThreads>(block, sums);
    block.for_each_thread([&](int thread) {
      if (thread == 0) *norm = static_cast<float>(sqrt(sums[0]));
    });
  }
};

struct SgdBlock {
  static constexpr int kThreads = kSgdThreads;

  SgdGroup group;
  SgdNumbers numbers;

  static size_t shared_bytes() { return 0; }

  template <class Block>
  MRCNN_HD void operator()(Block& block, int64_t unit) const {
    const int index = group.variable_of(unit);
    const SgdVariable& variable = group.variables[index];
    const SgdRange range = sgd_range(variable.count, unit - group.first_chunk[index]);
    const float rate = variable.rate_factor * *numbers.rate;
    block.for_each_thread([&](int thread) {
      for (int64_t i = range.begin + thread; i < range.end; i += kThreads) {
        float value = variable.value[i], momentum = variable.momentum[i];
        if (*numbers.is_taken) {
          const float gradient = with_decay(variable.gradient[i], *numbers.scale, value, variable.weight_decay);
          sgd_element(gradient, *numbers.clip, rate, numbers.momentum, &value, &momentum);
        }
        variable.new_value[i] = value;
        variable.new_momentum[i] = momentum;
      }
    });
  }
};

// ---- the launches ----

inline size_t gradient_norm_scratch_bytes(const SgdVariable* variables, int num_variables) {
  int64_t chunks = 0;
  for (int i = 0; i < num_variables; ++i) chunks += sgd_chunks(variables[i].count);
  return chunks * sizeof(double);
}

template <class Grid>
void gradient_norm_on(Grid& grid, const SgdVariable* variables, int num_variables, const float* scale, float* norm,
                      void* memory) {
  double* chunk_sums = static_cast<double*>(memory);
  int64_t num_chunks = 0;
  for (int i = 0; i < num_variables; i += SgdGroup::kMost) {
    const SgdGroup group(variables + i, num_variables - i);
    grid.run_blocks(SquaresBlock{group, scale, chunk_sums + num_chunks}, group.num_chunks());
    num_chunks += group.num_chunks();
  }
  grid.run_blocks(NormBlock{chunk_sums, num_chunks, norm}, 1);
}

template <class Grid>
void sgd_on(Grid& grid, const SgdVariable* variables, int num_variables, const SgdNumbers& numbers) {
  for (int i = 0; i < num_variables; i += SgdGroup::kMost) {
    const SgdGroup group(variables + i, num_variables - i);
    grid.run_blocks(SgdBlock{group, numbers}, group.num_chunks());
  }
}

}  // namespace mrcnn
