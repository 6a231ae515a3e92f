// Class-wise NMS over images as a grid.
//
// N images, R RoIs per image, C classes without background, D detections per image.
#pragma once

#include "../detection.h"
#include "nms_grid.h"

namespace mrcnn {

struct DetectionInputs {
  const Box* boxes;     // [N, R, C or 1]
  const float* scores;  // [N, R, C]
};

// A list is a class of an image, its candidates are the RoIs.
struct FillClassCandidates {
  DetectionParams params;
  DetectionInputs inputs;
  NmsBatch batch;
  int64_t first_unit;

  MRCNN_HD void operator()(int64_t i) const {
    const int64_t unit = first_unit + i / params.num_rois;
    const int roi = static_cast<int>(i % params.num_rois);
    const int64_t image = unit / params.num_classes;
    const int class_index = static_cast<int>(unit % params.num_classes);
    const float score = inputs.scores[score_index(params, image, roi, class_index)];
    const Box box = inputs.boxes[box_index(params, image, roi, class_index)];
    batch.ranked[i] = may_be_detected(params, score, box) ? rank(score, static_cast<uint32_t>(roi)) : 0;
    batch.boxes[i] = box;
  }
};

struct WriteDetections {
  DetectionParams params;
  DetectionInputs inputs;
  KeptLists kept;
  const int* selection;  // [N, D]
  Detections detections;

  MRCNN_HD void operator()(int64_t i) const {
    const int64_t image = i / params.max_detections;
    const bool valid = selection[i] >= 0;
    const int64_t entry = valid ? image * params.num_classes * kept.row + selection[i] : 0;
    const int class_index = valid ? selection[i] / kept.row : 0;
    const int roi = valid ? static_cast<int>(index_of(kept.ranked[entry])) : 0;
    detections.boxes[i] = valid ? kept.boxes[entry] : Box{};
    detections.scores[i] = valid ? inputs.scores[score_index(params, image, roi, class_index)] : 0.0f;
    detections.classes[i] = valid ? class_index + 1 : 0;
    detections.roi_indices[i] = roi;
    detections.valid[i] = valid;
  }
};

// ---- the launches ----

struct DetectionScratch {
  int* selection;  // [N, D]
  NmsScratch nms;

  DetectionScratch(const DetectionParams& params, Divider* memory)
      : selection(memory->take<int>(static_cast<int64_t>(params.num_images) * params.max_detections)),
        nms(static_cast<int64_t>(params.num_images) * params.num_classes, params.num_rois, max_class_detections(params),
            memory) {}
};

template <class Grid>
void multiclass_nms_on(Grid& grid, const DetectionParams& params, const DetectionInputs& inputs,
                       const Detections& detections, void* memory) {
  Divider divider(memory);
  const DetectionScratch scratch(params, &divider);
  const int64_t num_images = params.num_images;
  if (params.num_rois > 0) {
    nms_on(grid, scratch.nms, num_images * params.num_classes, params.nms_threshold,
           [&](const NmsBatch& batch, int64_t first_unit) {
             grid.run_elements(FillClassCandidates{params, inputs, batch, first_unit},
                               batch.num_units * batch.candidates);
           });
  }
  merge_lists_on(grid, scratch.nms.kept, num_images, params.num_classes, params.max_detections, scratch.selection);
  grid.run_elements(WriteDetections{params, inputs, scratch.nms.kept, scratch.selection, detections},
                    num_images * params.max_detections);
}

}  // namespace mrcnn
