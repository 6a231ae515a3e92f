// Matching of boxes with ground truths on the CPU: eight boxes against one ground truth at a time. Part of
// simd_kernels.cc.
//
// No matrix of boxes by ground truths is stored. IoUs are computed twice where that is needed (match, then mark_best),
// by the same code, so the second pass can compare for equality.
#pragma once

#include "../matching.h"
#include "kernels.h"
#include "simd.h"

namespace mrcnn {
namespace {

inline BoxOf<Float8> splat(const Box& box) { return {splat(box.x1), splat(box.y1), splat(box.x2), splat(box.y2)}; }

// Lane i holds box i; lanes without a valid box hold zeros, which overlap nothing.
inline BoxOf<Float8> load_boxes(const Box* boxes, const bool* valid, int lanes) {
  BoxOf<Float8> result = {};
  for (int i = 0; i < lanes; ++i) {
    if (valid != nullptr && !valid[i]) continue;
    result.x1[i] = boxes[i].x1;
    result.y1[i] = boxes[i].y1;
    result.x2[i] = boxes[i].x2;
    result.y2[i] = boxes[i].y2;
  }
  return result;
}

inline int first_valid(const MatchTargets& targets) {
  for (int gt = 0; gt < targets.num_gt; ++gt) {
    if (targets.gt_valid[gt]) return gt;
  }
  return -1;
}

// The first `lanes` of the vector, one by one past its end.
template <class V, class T>
inline void store_lanes(V v, int lanes, T* out) {
  if (lanes == kLanes) {
    store_vector(v, out);
  } else {
    for (int i = 0; i < lanes; ++i) out[i] = v[i];
  }
}

// Comparisons are written so that a NaN changes nothing.
void match(const MatchTargets& targets, const Box* boxes, const bool* boxes_valid, int64_t count, float* best_iou,
           int* best_gt, float* crowd_overlap, float* gt_best_iou, float* scratch) {
  const int none = first_valid(targets);
  for (int gt = 0; gt < targets.num_gt; ++gt) store(Float8{}, scratch + gt * kLanes);

  for (int64_t first = 0; first < count; first += kLanes) {
    const int lanes = count - first < kLanes ? static_cast<int>(count - first) : kLanes;
    const bool* valid = boxes_valid == nullptr ? nullptr : boxes_valid + first;
    const BoxOf<Float8> eight = load_boxes(boxes + first, valid, lanes);
    const Float8 areas = area(eight);

    Float8 best{};
    Int8 best_index = splat(static_cast<int32_t>(none));
    for (int gt = 0; gt < targets.num_gt; ++gt) {
      if (!targets.gt_valid[gt]) continue;
      const BoxOf<Float8> target = splat(targets.gt_boxes[gt]);
      if (!any(intersection(eight, target) > Float8{})) continue;  // most: no division, no update
      const Float8 overlap = iou(eight, areas, target, area(target));
      keep_better(overlap, splat(static_cast<int32_t>(gt)), &best, &best_index);
      const Float8 known = load(scratch + gt * kLanes);
      store(overlap > known ? overlap : known, scratch + gt * kLanes);
    }

    Float8 covered{};
    for (int crowd = 0; crowd < targets.num_crowds; ++crowd) {
      const Float8 part = share(intersection(eight, splat(targets.crowd_boxes[crowd])), areas);
      covered = part > covered ? part : covered;
    }

    store_lanes(best, lanes, best_iou + first);
    store_lanes(best_index, lanes, best_gt + first);
    store_lanes(covered, lanes, crowd_overlap + first);
    for (int i = 0; valid != nullptr && i < lanes; ++i) {
      if (!valid[i]) best_gt[first + i] = -1;
    }
  }
  for (int gt = 0; gt < targets.num_gt; ++gt) gt_best_iou[gt] = greatest(load(scratch + gt * kLanes));
}

void mark_best(const MatchTargets& targets, const Box* boxes, const bool* boxes_valid, int64_t count,
               const float* gt_best_iou, const float* gt_best_iou_overall, bool* is_best_for_gt) {
  memset(is_best_for_gt, 0, count);
  for (int gt = 0; gt < targets.num_gt; ++gt) {
    const float greatest_iou = gt_best_iou_overall[gt];
    if (!(greatest_iou > 0.0f) || gt_best_iou[gt] != greatest_iou) continue;
    const BoxOf<Float8> target = splat(targets.gt_boxes[gt]);
    const Float8 target_area = area(target);
    for (int64_t first = 0; first < count; first += kLanes) {
      const int lanes = count - first < kLanes ? static_cast<int>(count - first) : kLanes;
      const bool* valid = boxes_valid == nullptr ? nullptr : boxes_valid + first;
      const BoxOf<Float8> eight = load_boxes(boxes + first, valid, lanes);
      const Int8 equal = iou(eight, area(eight), target, target_area) == splat(greatest_iou);
      if (!any(equal)) continue;
      for (int i = 0; i < lanes; ++i) is_best_for_gt[first + i] |= equal[i] != 0;
    }
  }
}

}  // namespace
}  // namespace mrcnn
