#include "roi_align_plan.h"

#include <algorithm>

namespace mrcnn {

namespace {

int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

RoiFootprint footprint(const RoiAlignParams& params, const Box& box) {
  const int level = level_of_box(params, box);
  const RoiAxis axis_y = roi_axis_y(params, box, level);
  const RoiAxis axis_x = roi_axis_x(params, box, level);
  if (!is_finite(box) || !is_finite(axis_y) || !is_finite(axis_x)) return {level, {0, 0}, {0, 0}};
  return {level, touched_range(axis_y, params.output_size, params.sampling_ratio),
          touched_range(axis_x, params.output_size, params.sampling_ratio)};
}

}  // namespace

void plan_roi_align_backward(const RoiAlignParams& params, const Box* boxes, RoiFootprint* footprints, int* order,
                             int* level_begin) {
  for (int image = 0; image < params.num_images; ++image) {
    const int first = image * params.num_boxes;
    for (int i = first; i < first + params.num_boxes; ++i) footprints[i] = footprint(params, boxes[i]);
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

int64_t count_roi_align_tiles(const RoiAlignParams& params, int tile_edge) {
  int64_t per_image = 0;
  for (int level = 0; level < params.num_levels; ++level) {
    per_image += ceil_divide(params.heights[level], tile_edge) * ceil_divide(params.widths[level], tile_edge);
  }
  return per_image * params.num_images;
}

RoiTile roi_align_tile(const RoiAlignParams& params, int tile_edge, int64_t index) {
  int level = 0;
  int64_t across, down;
  for (;; ++level) {
    across = ceil_divide(params.widths[level], tile_edge);
    down = ceil_divide(params.heights[level], tile_edge);
    if (index < across * down * params.num_images) break;
    index -= across * down * params.num_images;
  }
  const int image = static_cast<int>(index / (across * down));
  const int y = static_cast<int>(index / across % down) * tile_edge;
  const int x = static_cast<int>(index % across) * tile_edge;
  return {image,
          level,
          {y, std::min(y + tile_edge, params.heights[level])},
          {x, std::min(x + tile_edge, params.widths[level])}};
}

size_t roi_align_scratch_bytes(const RoiAlignParams& params, int tile_edge) {
  const size_t axis = params.output_size * (2 * params.sampling_ratio * sizeof(Tap) + sizeof(int));
  return 2 * axis + static_cast<size_t>(tile_edge) * tile_edge * params.channels * sizeof(float);
}

}  // namespace mrcnn
