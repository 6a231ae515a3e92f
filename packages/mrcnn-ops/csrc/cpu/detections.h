// Class-wise NMS over images on the CPU.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../detection.h"

namespace mrcnn {

// Bytes of scratch for one running call of detect_per_class or merge_classes.
size_t detections_scratch_bytes(const DetectionParams& params);

// Units are (image, class), image-major. boxes: [N, R, C or 1]; scores: [N, R, C].
// class_rois: [N * C, max_class_detections], the RoIs kept, best first; class_counts: [N * C].
void detect_per_class(const DetectionParams& params, const Box* boxes, const float* scores, int64_t begin, int64_t end,
                      int* class_rois, int* class_counts, void* scratch);

// For images [begin, end); zeros where there is no detection.
void merge_classes(const DetectionParams& params, const Box* boxes, const float* scores, const int* class_rois,
                   const int* class_counts, int64_t begin, int64_t end, const Detections& detections, void* scratch);

}  // namespace mrcnn
