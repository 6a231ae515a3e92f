// The ops on the CPU kernels, in one thread: what the grid of the CUDA kernels has to reproduce.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "../cpu/detections.h"
#include "../cpu/kernels.h"
#include "../cpu/proposals.h"
#include "../cpu/roi_align_plan.h"
#include "../matching.h"

namespace mrcnn {

// std::vector<bool> has no data().
using Flags = std::vector<unsigned char>;
static_assert(sizeof(bool) == 1, "flags are read as bool");

inline bool* bools(Flags& flags) { return reinterpret_cast<bool*>(flags.data()); }
inline const bool* bools(const Flags& flags) { return reinterpret_cast<const bool*>(flags.data()); }

inline int64_t elements_of_map(const RoiAlignParams& params, int level) {
  return static_cast<int64_t>(params.num_images) * params.heights[level] * params.widths[level] * params.channels;
}

inline int64_t elements_of_output(const RoiAlignParams& params) {
  return static_cast<int64_t>(params.num_images) * params.num_boxes * params.output_size * params.output_size *
         params.channels;
}

template <class T>
std::vector<T> cpu_roi_align(const RoiAlignParams& params, const std::vector<std::vector<T>>& features,
                             const std::vector<Box>& boxes) {
  std::vector<T> output(elements_of_output(params));
  const T* maps[kMaxLevels] = {};
  for (int level = 0; level < params.num_levels; ++level) maps[level] = features[level].data();
  std::vector<uint64_t> scratch(roi_align_scratch_bytes(params, 0) / 8 + 1);
  roi_align_kernels<T>(kernels()).forward(params, maps, boxes.data(), 0, static_cast<int64_t>(boxes.size()),
                                          output.data(), scratch.data());
  return output;
}

template <class T>
std::vector<std::vector<T>> cpu_roi_align_gradient(const RoiAlignParams& params, const std::vector<T>& gradient,
                                                   const std::vector<Box>& boxes) {
  std::vector<std::vector<T>> results(params.num_levels);
  T* maps[kMaxLevels] = {};
  for (int level = 0; level < params.num_levels; ++level) {
    results[level].resize(elements_of_map(params, level));
    maps[level] = results[level].data();
  }
  std::vector<RoiFootprint> footprints(boxes.size());
  std::vector<int> order(boxes.size()), level_begin(params.num_images * (params.num_levels + 1));
  plan_roi_align_backward(params, boxes.data(), footprints.data(), order.data(), level_begin.data());
  const int edge = roi_align_tile_edge(params.channels);
  std::vector<uint64_t> scratch(roi_align_scratch_bytes(params, edge) / 8 + 1);
  for (int64_t i = 0; i < count_roi_align_tiles(params, edge); ++i) {
    roi_align_kernels<T>(kernels()).backward(params, gradient.data(), boxes.data(), footprints.data(), order.data(),
                                             level_begin.data(), roi_align_tile(params, edge, i), maps, scratch.data());
  }
  return results;
}

struct ProposalResult {
  std::vector<Box> boxes;
  std::vector<float> scores;
  Flags valid;

  explicit ProposalResult(const ProposalParams& params)
      : boxes(static_cast<size_t>(params.num_images) * params.num_proposals),
        scores(boxes.size()),
        valid(boxes.size()) {}
};

inline ProposalResult cpu_generate_proposals(const ProposalParams& params, const std::vector<float>& logits,
                                             const std::vector<float>& deltas, const std::vector<Box>& anchors,
                                             const std::vector<int>& image_sizes) {
  ProposalResult result(params);
  const int64_t units = static_cast<int64_t>(params.num_images) * params.num_levels;
  const int row = max_level_proposals(params);
  std::vector<Box> level_boxes(units * row);
  std::vector<float> level_scores(units * row);
  std::vector<int> level_counts(units);
  std::vector<uint64_t> scratch(proposals_scratch_bytes(params) / 8 + 1);
  propose_per_level(params, logits.data(), deltas.data(), anchors.data(), image_sizes.data(), 0, units,
                    level_boxes.data(), level_scores.data(), level_counts.data(), scratch.data());
  merge_levels(params, level_boxes.data(), level_scores.data(), level_counts.data(), 0, params.num_images,
               result.boxes.data(), result.scores.data(), bools(result.valid), scratch.data());
  return result;
}

struct MatchResult {
  std::vector<float> best_iou, crowd_overlap;
  std::vector<int> best_gt;
  Flags is_best_for_gt;

  explicit MatchResult(const MatchParams& params)
      : best_iou(static_cast<size_t>(params.num_images) * params.num_boxes),
        crowd_overlap(best_iou.size()),
        best_gt(best_iou.size()),
        is_best_for_gt(best_iou.size()) {}
};

// boxes_valid may be empty: all are.
inline MatchResult cpu_match_boxes(const MatchParams& params, const std::vector<Box>& boxes, const Flags& boxes_valid,
                                   const std::vector<Box>& gt_boxes, const Flags& gt_valid,
                                   const std::vector<Box>& crowd_boxes) {
  MatchResult result(params);
  if (params.num_boxes == 0) return result;  // as the op does
  std::vector<float> gt_best_iou(params.num_gt), scratch(match_scratch_floats(params.num_gt));
  for (int64_t image = 0; image < params.num_images; ++image) {
    const int64_t out = image * params.num_boxes;
    const MatchTargets targets = {gt_boxes.data() + image * params.num_gt, bools(gt_valid) + image * params.num_gt,
                                  crowd_boxes.data() + image * params.num_crowds, params.num_gt, params.num_crowds};
    const Box* image_boxes = boxes.data() + (params.boxes_are_shared ? 0 : out);
    const bool* valid = boxes_valid.empty() ? nullptr : bools(boxes_valid) + out;
    kernels().match(targets, image_boxes, valid, params.num_boxes, result.best_iou.data() + out,
                    result.best_gt.data() + out, result.crowd_overlap.data() + out, gt_best_iou.data(), scratch.data());
    kernels().mark_best(targets, image_boxes, valid, params.num_boxes, gt_best_iou.data(), gt_best_iou.data(),
                        bools(result.is_best_for_gt) + out);
  }
  return result;
}

struct DetectionResult {
  std::vector<Box> boxes;
  std::vector<float> scores;
  std::vector<int> classes, roi_indices;
  Flags valid;

  explicit DetectionResult(const DetectionParams& params)
      : boxes(static_cast<size_t>(params.num_images) * params.max_detections),
        scores(boxes.size()),
        classes(boxes.size()),
        roi_indices(boxes.size()),
        valid(boxes.size()) {}
};

inline DetectionResult cpu_multiclass_nms(const DetectionParams& params, const std::vector<Box>& boxes,
                                          const std::vector<float>& scores) {
  DetectionResult result(params);
  const int64_t units = static_cast<int64_t>(params.num_images) * params.num_classes;
  std::vector<int> class_rois(units * max_class_detections(params)), class_counts(units);
  std::vector<uint64_t> scratch(detections_scratch_bytes(params) / 8 + 1);
  detect_per_class(params, boxes.data(), scores.data(), 0, units, class_rois.data(), class_counts.data(),
                   scratch.data());
  const Detections detections = {result.boxes.data(), result.scores.data(), result.classes.data(),
                                 result.roi_indices.data(), bools(result.valid)};
  merge_classes(params, boxes.data(), scores.data(), class_rois.data(), class_counts.data(), 0, params.num_images,
                detections, scratch.data());
  return result;
}

template <class T>
void cpu_fold(const FoldShape& shape, const float* kernel, const BatchNorm& norm, const FoldOutputs<T>& outputs) {
  std::vector<float> scale(shape.channels);
  for (int64_t c = 0; c < shape.channels; ++c) {
    scale[c] = fold_scale(norm, shape.epsilon, c);
    outputs.bias[c] = folded_bias(norm, shape.epsilon, c);
  }
  fold_kernels<T>(kernels()).forward(kernel, scale.data(), shape.rows, shape.channels, outputs.kernel);
}

template <class T>
void cpu_fold_backward(const FoldShape& shape, const FoldGradientInputs<T>& inputs, const BatchNorm& norm,
                       const FoldGradients& gradients) {
  std::vector<float> scale(shape.channels), product_sums(shape.channels);
  for (int64_t c = 0; c < shape.channels; ++c) scale[c] = fold_scale(norm, shape.epsilon, c);
  fold_kernels<T>(kernels()).backward(inputs.kernel, inputs.folded_gradient, scale.data(), shape.rows, shape.channels,
                                      gradients.kernel, product_sums.data());
  for (int64_t c = 0; c < shape.channels; ++c) {
    gradients.gamma[c] = gamma_gradient(norm, shape.epsilon, c, product_sums[c], inputs.bias_gradient[c]);
    gradients.beta[c] = inputs.bias_gradient[c];
  }
}

inline float cpu_gradient_norm(const std::vector<SgdVariable>& variables, float scale) {
  double sum = 0.0;
  for (const SgdVariable& variable : variables) {
    for (int64_t chunk = 0; chunk < sgd_chunks(variable.count); ++chunk) {
      sum += kernels().sum_of_squares(variable, sgd_range(variable.count, chunk), scale);
    }
  }
  return static_cast<float>(std::sqrt(sum));
}

inline void cpu_sgd(const std::vector<SgdVariable>& variables, const SgdStep& step) {
  for (const SgdVariable& variable : variables) kernels().sgd(variable, {0, variable.count}, step);
}

}  // namespace mrcnn
