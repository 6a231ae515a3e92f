// Sums over the threads of a block.
#pragma once

#include "block.h"

namespace mrcnn {

// Adds the threads' sums, in shared memory; the result is in sums[0]. kThreads: a power of two.
template <int kThreads, class Block>
MRCNN_HD void add_up(Block& block, double* sums) {
  for (int half = kThreads / 2; half > 0; half /= 2) {
    block.for_each_thread([&](int thread) {
      if (thread < half) sums[thread] += sums[thread + half];
    });
  }
}

}  // namespace mrcnn
