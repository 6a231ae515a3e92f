#include "detections.h"

#include <algorithm>

#include "kernels.h"
#include "ranking.h"

namespace mrcnn {

size_t detections_scratch_bytes(const DetectionParams& params) {
  const size_t rois = params.num_rois;
  const size_t row = max_class_detections(params);
  const size_t per_class = rois * (sizeof(Ranked) + sizeof(Box)) + row * sizeof(int) +
                           nms_scratch_floats(max_class_detections(params)) * sizeof(float);
  const size_t merge = row * params.num_classes * sizeof(Ranked);
  return std::max(per_class, merge);
}

void detect_per_class(const DetectionParams& params, const Box* boxes, const float* scores, int64_t begin, int64_t end,
                      int* class_rois, int* class_counts, void* memory) {
  const int row = max_class_detections(params);
  Ranked* ranked = static_cast<Ranked*>(memory);
  Box* candidates = reinterpret_cast<Box*>(ranked + params.num_rois);
  int* kept = reinterpret_cast<int*>(candidates + params.num_rois);
  float* nms_scratch = reinterpret_cast<float*>(kept + row);

  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t image = unit / params.num_classes;
    const int class_index = static_cast<int>(unit % params.num_classes);
    int count = 0;
    for (int roi = 0; roi < params.num_rois; ++roi) {
      const float score = scores[score_index(params, image, roi, class_index)];
      if (!may_be_detected(params, score, boxes[box_index(params, image, roi, class_index)])) continue;
      ranked[count++] = rank(score, static_cast<uint32_t>(roi));
    }
    sort_best(ranked, count, count);
    for (int i = 0; i < count; ++i) candidates[i] = boxes[box_index(params, image, index_of(ranked[i]), class_index)];
    const int num_kept = kernels().nms(candidates, count, params.nms_threshold, row, nms_scratch, kept);
    for (int i = 0; i < num_kept; ++i) class_rois[unit * row + i] = static_cast<int>(index_of(ranked[kept[i]]));
    class_counts[unit] = num_kept;
  }
}

void merge_classes(const DetectionParams& params, const Box* boxes, const float* scores, const int* class_rois,
                   const int* class_counts, int64_t begin, int64_t end, const Detections& detections, void* memory) {
  Ranked* ranked = static_cast<Ranked*>(memory);
  const int row = max_class_detections(params);

  for (int64_t image = begin; image < end; ++image) {
    const int64_t first = image * params.num_classes;
    int count = 0;
    for (int class_index = 0; class_index < params.num_classes; ++class_index) {
      for (int i = 0; i < class_counts[first + class_index]; ++i) {
        const int roi = class_rois[(first + class_index) * row + i];
        const float score = scores[score_index(params, image, roi, class_index)];
        ranked[count++] = rank(score, static_cast<uint32_t>(class_index * row + i));
      }
    }
    count = sort_best(ranked, count, params.max_detections);
    for (int i = 0; i < params.max_detections; ++i) {
      const int64_t out = image * params.max_detections + i;
      const bool valid = i < count;
      const int position = valid ? static_cast<int>(index_of(ranked[i])) : 0;
      const int class_index = valid ? position / row : 0;
      const int roi = valid ? class_rois[first * row + position] : 0;
      detections.boxes[out] = valid ? boxes[box_index(params, image, roi, class_index)] : Box{};
      detections.scores[out] = valid ? scores[score_index(params, image, roi, class_index)] : 0.0f;
      detections.classes[out] = valid ? class_index + 1 : 0;
      detections.roi_indices[out] = roi;
      detections.valid[out] = valid;
    }
  }
}

}  // namespace mrcnn
