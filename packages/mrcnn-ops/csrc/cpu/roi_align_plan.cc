#include "roi_align_plan.h"

namespace mrcnn {

void plan_roi_align_backward(const RoiAlignParams& params, const Box* boxes, RoiFootprint* footprints, int* order,
                             int* level_begin) {
  for (int image = 0; image < params.num_images; ++image) {
    const int first = image * params.num_boxes;
    for (int i = first; i < first + params.num_boxes; ++i) footprints[i] = roi_footprint(params, boxes[i]);
    int position = first;
    int* begins = level_begin + static_cast<int64_t>(image) * (params.num_levels + 1);
    for (int level = 0; level < params.num_levels; ++level) {
      begins[level] = position;
      for (int i = first; i < first + params.num_boxes; ++i) {
        if (footprints[i].level == level) order[position++] = i;
      }
    }
    begins[params.num_levels] = position;
  }
}

int roi_align_tile_edge(int channels) {
  const int64_t budget = 256 * 1024 / sizeof(float);
  int edge = 64;
  while (edge > 1 && static_cast<int64_t>(edge) * edge * channels > budget) edge /= 2;
  return edge;
}

size_t roi_align_scratch_bytes(const RoiAlignParams& params, int tile_edge) {
  const size_t axis = params.output_size * (2 * params.sampling_ratio * sizeof(Tap) + sizeof(int));
  return 2 * axis + static_cast<size_t>(tile_edge) * tile_edge * params.channels * sizeof(float);
}

}  // namespace mrcnn
