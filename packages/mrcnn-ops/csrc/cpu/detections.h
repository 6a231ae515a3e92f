// Class-wise NMS over images (Mask R-CNN section 3.1): what remains of the box head's outputs.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../box.h"

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

// The most detections a class can give; row length of class_rois.
int max_class_detections(const DetectionParams& params);

// Bytes of scratch for one running call of detect_per_class or merge_classes.
size_t detections_scratch_bytes(const DetectionParams& params);

// Units are (image, class), image-major. boxes: [N, R, C or 1]; scores: [N, R, C].
// class_rois: [N * C, max_class_detections], the RoIs kept, best first; class_counts: [N * C].
void detect_per_class(const DetectionParams& params, const Box* boxes, const float* scores, int64_t begin, int64_t end,
                      int* class_rois, int* class_counts, void* scratch);

struct Detections {  // each [N, max_detections]
  Box* boxes;
  float* scores;
  int* classes;  // 1 .. num_classes
  int* roi_indices;
  bool* valid;
};

// For images [begin, end); zeros where there is no detection.
void merge_classes(const DetectionParams& params, const Box* boxes, const float* scores, const int* class_rois,
                   const int* class_counts, int64_t begin, int64_t end, const Detections& detections, void* scratch);

}  // namespace mrcnn
