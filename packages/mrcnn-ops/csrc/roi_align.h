// ROIAlign over a feature pyramid (Mask R-CNN section 3; level rule: FPN section 4.2): parameters, and the geometry of
// one box.
//
// A box is cut into P x P bins, a bin holds S x S samples, a sample is interpolated bilinearly, a bin is the mean of
// its samples. Weights separate into rows and columns: out[py, px] = sum over y, x of wy[py, y] * wx[px, x] *
// feature[y, x].
#pragma once

#include <cmath>
#include <cstdint>

#include "bilinear.h"
#include "box.h"
#include "half.h"
#include "host_device.h"

namespace mrcnn {

constexpr int kMaxLevels = 8;
constexpr int kMaxOutputSize = 64;
constexpr int kMaxSamplingRatio = 8;

struct RoiAlignParams {
  int num_images;
  int num_boxes;  // per image
  int channels;
  int output_size;     // P
  int sampling_ratio;  // S
  bool aligned;
  int min_level;
  int canonical_level;
  float canonical_size;
  int num_levels;
  int heights[kMaxLevels];
  int widths[kMaxLevels];
  float strides[kMaxLevels];
};

// Index into the list of feature maps: floor(canonical_level + log2(sqrt(area) / canonical_size + 1e-6)), clamped.
// ilogb is floor(log2(.)) without the rounding of a logarithm, so that CPU and GPU agree at the borders.
MRCNN_HD static inline int level_of_box(const RoiAlignParams& params, const Box& box) {
  const float box_area = area(box);
  const float scale = sqrtf(box_area > 0.0f ? box_area : 0.0f) / params.canonical_size + 1e-6f;
  if (!is_finite(scale)) return params.num_levels - 1;
  const int level = params.canonical_level + ilogbf(scale) - params.min_level;
  return level < 0 ? 0 : level >= params.num_levels ? params.num_levels - 1 : level;
}

// One axis of a box on its feature map; unit: feature pixels, whose centres are at whole numbers.
struct RoiAxis {
  float start;
  float bin;   // negative for an inverted box, as in torchvision
  int length;  // of the feature map
};

MRCNN_HD static inline RoiAxis roi_axis(const RoiAlignParams& params, float low, float high, float stride, int length) {
  const float offset = params.aligned ? 0.5f : 0.0f;
  const float start = low / stride - offset;
  float size = (high / stride - offset) - start;
  if (!params.aligned && size < 1.0f) size = 1.0f;
  return {start, size / static_cast<float>(params.output_size), length};
}

// Where a box lies in the pyramid.
struct RoiGeometry {
  int level;
  RoiAxis y, x;
  bool reads;  // false: coordinates are not finite, or the map is empty; the output is zero
};

MRCNN_HD static inline RoiGeometry roi_geometry(const RoiAlignParams& params, const Box& box) {
  const int level = level_of_box(params, box);
  const RoiAxis y = roi_axis(params, box.y1, box.y2, params.strides[level], params.heights[level]);
  const RoiAxis x = roi_axis(params, box.x1, box.x2, params.strides[level], params.widths[level]);
  const bool finite =
      is_finite(box) && is_finite(y.start) && is_finite(y.bin) && is_finite(x.start) && is_finite(x.bin);
  return {level, y, x, finite && y.length > 0 && x.length > 0};
}

MRCNN_HD static inline float sample_position(const RoiAxis& axis, int bin, int sample, int sampling_ratio) {
  return axis.start + static_cast<float>(bin) * axis.bin +
         (static_cast<float>(sample) + 0.5f) * axis.bin / static_cast<float>(sampling_ratio);
}

// A sample more than one pixel off the map counts as zero (torchvision's rule); nearer ones take the edge.
MRCNN_HD static inline bool sample_counts(float position, int length) {
  return position >= -1.0f && position <= static_cast<float>(length);
}

struct Tap {
  int index;
  float weight;
};

// The pixels of one bin along one axis, each once, and their weights (mean over samples included). Returns how many, at
// most 2 * S. Neighbouring samples share pixels, so there are fewer taps than samples times two, and fewer reads; zero
// weights are left out.
MRCNN_HD static inline int bin_taps(const RoiAxis& axis, int bin, int sampling_ratio, Tap* taps) {
  int count = 0;
  const float mean = 1.0f / static_cast<float>(sampling_ratio);
  for (int sample = 0; sample < sampling_ratio; ++sample) {
    const float position = sample_position(axis, bin, sample, sampling_ratio);
    if (!sample_counts(position, axis.length)) continue;
    const LinearTaps linear = linear_taps(position, axis.length);
    const Tap pair[2] = {{linear.low, linear.low_weight * mean}, {linear.high, linear.high_weight * mean}};
    for (const Tap& tap : pair) {
      if (tap.weight == 0.0f) continue;
      int known = 0;
      while (known < count && taps[known].index != tap.index) ++known;
      if (known == count) taps[count++] = {tap.index, 0.0f};
      taps[known].weight += tap.weight;
    }
  }
  return count;
}

// The rows (or columns) that a box may touch: [begin, end), empty where no sample counts. Positions are monotonic in
// bin and sample, rounding included, so the two extreme samples bound them.
struct IndexRange {
  int begin, end;
};

MRCNN_HD static inline IndexRange touched_range(const RoiAxis& axis, int output_size, int sampling_ratio) {
  const float first = sample_position(axis, 0, 0, sampling_ratio);
  const float last = sample_position(axis, output_size - 1, sampling_ratio - 1, sampling_ratio);
  const float low = smaller(first, last);
  const float high = larger(first, last);
  if (axis.length == 0 || high < -1.0f || low > static_cast<float>(axis.length)) return {0, 0};
  return {linear_taps(low, axis.length).low, linear_taps(high, axis.length).high + 1};
}

// What is known of a box before its gradient is spread: where on which feature map it may write.
struct RoiFootprint {
  int level;
  IndexRange rows, columns;
};

MRCNN_HD static inline RoiFootprint roi_footprint(const RoiAlignParams& params, const Box& box) {
  const RoiGeometry geometry = roi_geometry(params, box);
  if (!geometry.reads) return {geometry.level, {0, 0}, {0, 0}};
  return {geometry.level, touched_range(geometry.y, params.output_size, params.sampling_ratio),
          touched_range(geometry.x, params.output_size, params.sampling_ratio)};
}

// A rectangle of one image's feature map that one thread (CPU) or block (CUDA) owns during the backward pass.
struct RoiTile {
  int image, level;
  IndexRange rows, columns;
};

MRCNN_HD static inline bool overlap(const IndexRange& a, const IndexRange& b) {
  return a.begin < b.end && b.begin < a.end;
}

MRCNN_HD static inline bool contains(const IndexRange& range, int index) {
  return index >= range.begin && index < range.end;
}

// Square tiles of edge x edge pixels, cut off at the edges of the map; in one row, and in one column of a map.
MRCNN_HD static inline int64_t tiles_along(int length, int edge) {
  return (static_cast<int64_t>(length) + edge - 1) / edge;
}

MRCNN_HD static inline int64_t count_roi_align_tiles(const RoiAlignParams& params, int edge) {
  int64_t per_image = 0;
  for (int level = 0; level < params.num_levels; ++level) {
    per_image += tiles_along(params.heights[level], edge) * tiles_along(params.widths[level], edge);
  }
  return per_image * params.num_images;
}

MRCNN_HD static inline RoiTile roi_align_tile(const RoiAlignParams& params, int edge, int64_t index) {
  int level = 0;
  int64_t across, down;
  for (;; ++level) {
    across = tiles_along(params.widths[level], edge);
    down = tiles_along(params.heights[level], edge);
    if (index < across * down * params.num_images) break;
    index -= across * down * params.num_images;
  }
  const int image = static_cast<int>(index / (across * down));
  const int y = static_cast<int>(index / across % down) * edge;
  const int x = static_cast<int>(index % across) * edge;
  return {image, level, {y, smaller(y + edge, params.heights[level])}, {x, smaller(x + edge, params.widths[level])}};
}

}  // namespace mrcnn
