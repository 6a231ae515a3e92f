// Class-wise NMS over images (Mask R-CNN section 3.1): what remains of the box head's outputs. Parameters, and the
// rules for one box.
#pragma once

#include <cstdint>

#include "box.h"
#include "host_device.h"

namespace mrcnn {

struct DetectionParams {
  int num_images;
  int num_rois;       // per image
  int num_classes;    // without background
  bool shared_boxes;  // one box per RoI instead of one per RoI and class
  float score_threshold;
  float nms_threshold;
  int max_detections;  // per image
};

struct Detections {  // each [N, max_detections]
  Box* boxes;
  float* scores;
  int* classes;  // 1 .. num_classes
  int* roi_indices;
  bool* valid;
};

// The most detections a class can give; row length of class_rois.
MRCNN_HD static inline int max_class_detections(const DetectionParams& params) {
  return params.num_rois < params.max_detections ? params.num_rois : params.max_detections;
}

// Into boxes [N, R, C or 1].
MRCNN_HD static inline int64_t box_index(const DetectionParams& params, int64_t image, int64_t roi, int class_index) {
  const int64_t row = image * params.num_rois + roi;
  return params.shared_boxes ? row : row * params.num_classes + class_index;
}

// Into scores [N, R, C].
MRCNN_HD static inline int64_t score_index(const DetectionParams& params, int64_t image, int64_t roi, int class_index) {
  return (image * params.num_rois + roi) * params.num_classes + class_index;
}

// A score that is not finite is a fault of the network, so it is never a detection.
MRCNN_HD static inline bool may_be_detected(const DetectionParams& params, float score, const Box& box) {
  return score > params.score_threshold && is_finite(score) && is_finite(box);
}

}  // namespace mrcnn
