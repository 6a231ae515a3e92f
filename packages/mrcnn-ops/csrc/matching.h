// Matching of boxes with ground truths (Faster R-CNN section 3.1.2): sizes, and the rule for one pair.
#pragma once

#include <cstdint>

#include "box.h"
#include "host_device.h"

namespace mrcnn {

struct MatchParams {
  int num_images;
  int num_boxes;   // per image
  int num_gt;      // per image
  int num_crowds;  // per image
  bool boxes_are_shared;
};

struct MatchInputs {
  const Box* boxes;         // [A] where shared, else [N, A]
  const bool* boxes_valid;  // [N, A], or null: all are
  const Box* gt_boxes;      // [N, G]
  const bool* gt_valid;     // [N, G]
  const Box* crowd_boxes;   // [N, K]; an all-zero row overlaps nothing
};

struct MatchOutputs {  // each [N, A]
  float* best_iou;
  int* best_gt;
  bool* is_best_for_gt;
  float* crowd_overlap;
};

// The greater IoU wins, at equal IoU the earlier; a NaN changes nothing. F and I are numbers, or vectors of them.
template <class F, class I>
MRCNN_HD static inline void keep_better(F iou, I gt, F* best_iou, I* best_gt) {
  const auto better = iou > *best_iou;
  *best_iou = better ? iou : *best_iou;
  *best_gt = better ? gt : *best_gt;
}

}  // namespace mrcnn
