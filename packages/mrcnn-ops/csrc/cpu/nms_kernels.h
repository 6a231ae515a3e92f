// Greedy NMS on the CPU: each box against eight kept ones at a time. Part of simd_kernels.cc.
#pragma once

#include <initializer_list>

#include "kernels.h"
#include "simd.h"

namespace mrcnn {
namespace {

int nms(const Box* boxes, int count, float threshold, int max_kept, float* scratch, int* kept) {
  // Kept boxes by coordinate, and their areas; the lanes past the last one hold zeros, which overlap nothing.
  const size_t stride = static_cast<size_t>(max_kept) + kLanes;
  float* x1 = scratch;
  float* y1 = x1 + stride;
  float* x2 = y1 + stride;
  float* y2 = x2 + stride;
  float* areas = y2 + stride;
  const Float8 limit = splat(threshold);

  int num_kept = 0;
  for (int i = 0; i < count && num_kept < max_kept; ++i) {
    const Box& box = boxes[i];
    const BoxOf<Float8> candidate = {splat(box.x1), splat(box.y1), splat(box.x2), splat(box.y2)};
    const Float8 candidate_area = splat(area(box));
    bool suppressed = false;
    for (int k = 0; k < num_kept && !suppressed; k += kLanes) {
      const BoxOf<Float8> others = {load(x1 + k), load(y1 + k), load(x2 + k), load(y2 + k)};
      suppressed = any(iou(candidate, candidate_area, others, load(areas + k)) > limit);
    }
    if (suppressed) continue;
    if (num_kept % kLanes == 0) {
      for (float* column : {x1, y1, x2, y2, areas}) store(Float8{}, column + num_kept);
    }
    x1[num_kept] = box.x1;
    y1[num_kept] = box.y1;
    x2[num_kept] = box.x2;
    y2[num_kept] = box.y2;
    areas[num_kept] = area(box);
    kept[num_kept++] = i;
  }
  return num_kept;
}

}  // namespace
}  // namespace mrcnn
