// What the backward pass of ROIAlign needs before its tiles run: the footprint of every box, and the tiles.
#pragma once

#include <cstdint>

#include "kernels.h"

namespace mrcnn {

// Fills footprints [N * R], order [N * R] and level_begin [N * (num_levels + 1)], as RoiAlignKernels::backward reads
// them.
void plan_roi_align_backward(const RoiAlignParams& params, const Box* boxes, RoiFootprint* footprints, int* order,
                             int* level_begin);

// Edge of a square tile, in pixels: its sums take at most 256 KB, half of a common L2 cache.
int roi_align_tile_edge(int channels);

}  // namespace mrcnn
