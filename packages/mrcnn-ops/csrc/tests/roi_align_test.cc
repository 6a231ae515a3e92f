// ROIAlign: by hand, against a plain double loop, and the backward pass as the adjoint of the forward pass.
#include <algorithm>

#include "../cpu/roi_align_plan.h"
#include "test_data.h"
#include "testing.h"

using namespace mrcnn;

namespace {

template <class T>
T narrow(float value) {
  T result;
  from_float(value, &result);
  return result;
}

template <class T>
using Maps = std::vector<std::vector<T>>;

RoiAlignParams params_of(int num_images, int num_boxes, int channels, int output_size, std::vector<int> edges) {
  RoiAlignParams params = {};
  params.num_images = num_images;
  params.num_boxes = num_boxes;
  params.channels = channels;
  params.output_size = output_size;
  params.sampling_ratio = 2;
  params.aligned = true;
  params.min_level = 2;
  params.canonical_level = 4;
  params.canonical_size = 56.0f;
  params.num_levels = static_cast<int>(edges.size());
  for (int level = 0; level < params.num_levels; ++level) {
    params.heights[level] = edges[level];
    params.widths[level] = edges[level] + (edges[level] > 0 ? 3 : 0);
    params.strides[level] = static_cast<float>(4 << level);
  }
  return params;
}

size_t elements_of_map(const RoiAlignParams& params, int level) {
  return static_cast<size_t>(params.num_images) * params.heights[level] * params.widths[level] * params.channels;
}

size_t elements_of_output(const RoiAlignParams& params) {
  return static_cast<size_t>(params.num_images) * params.num_boxes * params.output_size * params.output_size *
         params.channels;
}

template <class T>
Maps<T> random_maps(Random& random, const RoiAlignParams& params) {
  Maps<T> maps(params.num_levels);
  for (int level = 0; level < params.num_levels; ++level) {
    maps[level].resize(elements_of_map(params, level));
    for (T& value : maps[level]) value = narrow<T>(uniform(random, -1, 1));
  }
  return maps;
}

template <class T>
std::vector<T> forward(const Kernels& set, const RoiAlignParams& params, const Maps<T>& maps,
                       const std::vector<Box>& boxes, int64_t pieces = 1) {
  std::vector<T> output(elements_of_output(params), narrow<T>(kNan));
  const T* pointers[kMaxLevels] = {};
  for (int level = 0; level < params.num_levels; ++level) pointers[level] = maps[level].data();
  const int64_t total = static_cast<int64_t>(boxes.size());
  for (int64_t piece = 0; piece < pieces; ++piece) {
    const auto scratch = exact_scratch(roi_align_scratch_bytes(params, 0));
    roi_align_kernels<T>(set).forward(params, pointers, boxes.data(), total * piece / pieces,
                                      total * (piece + 1) / pieces, output.data(), scratch.get());
  }
  return output;
}

template <class T>
Maps<T> backward(const Kernels& set, const RoiAlignParams& params, const std::vector<T>& gradient,
                 const std::vector<Box>& boxes, int edge, bool tiles_in_reverse = false) {
  Maps<T> maps(params.num_levels);
  T* pointers[kMaxLevels] = {};
  for (int level = 0; level < params.num_levels; ++level) {
    maps[level].assign(elements_of_map(params, level), narrow<T>(kNan));  // every element has to be written
    pointers[level] = maps[level].data();
  }
  std::vector<RoiFootprint> footprints(boxes.size());
  std::vector<int> order(boxes.size()), level_begin(params.num_images * (params.num_levels + 1));
  plan_roi_align_backward(params, boxes.data(), footprints.data(), order.data(), level_begin.data());
  const int64_t total = count_roi_align_tiles(params, edge);
  const auto scratch = exact_scratch(roi_align_scratch_bytes(params, edge));
  for (int64_t i = 0; i < total; ++i) {
    const RoiTile tile = roi_align_tile(params, edge, tiles_in_reverse ? total - 1 - i : i);
    roi_align_kernels<T>(set).backward(params, gradient.data(), boxes.data(), footprints.data(), order.data(),
                                       level_begin.data(), tile, pointers, scratch.get());
  }
  return maps;
}

// One sample, straight from the definition.
double sample(const float* map, const RoiAlignParams& params, int level, double y, double x, int channel) {
  const int height = params.heights[level], width = params.widths[level];
  if (y < -1 || y > height || x < -1 || x > width) return 0;
  y = std::min(std::max(y, 0.0), height - 1.0), x = std::min(std::max(x, 0.0), width - 1.0);
  double sum = 0;
  for (int row = static_cast<int>(y); row < std::min(static_cast<int>(y) + 2, height); ++row) {
    for (int column = static_cast<int>(x); column < std::min(static_cast<int>(x) + 2, width); ++column) {
      const double weight = std::max(1 - std::fabs(y - row), 0.0) * std::max(1 - std::fabs(x - column), 0.0);
      sum += weight * map[(static_cast<int64_t>(row) * width + column) * params.channels + channel];
    }
  }
  return sum;
}

double expected_output(const RoiAlignParams& params, const Maps<float>& maps, const std::vector<Box>& boxes,
                       int64_t box, int py, int px, int channel) {
  const RoiGeometry geometry = roi_geometry(params, boxes[box]);
  if (!geometry.reads) return 0;
  const int64_t image = box / params.num_boxes;
  const float* map = maps[geometry.level].data() +
                     image * params.heights[geometry.level] * params.widths[geometry.level] * params.channels;
  const int samples = params.sampling_ratio;
  double sum = 0;
  for (int sy = 0; sy < samples; ++sy) {
    for (int sx = 0; sx < samples; ++sx) {
      sum += sample(map, params, geometry.level, sample_position(geometry.y, py, sy, samples),
                    sample_position(geometry.x, px, sx, samples), channel);
    }
  }
  return sum / (samples * samples);
}

std::vector<Box> some_boxes(int count) {
  Random random(4);
  std::vector<Box> boxes = random_boxes(random, count, 100);
  const std::vector<Box> odd = odd_boxes();
  for (size_t i = 0; i < odd.size() && i < boxes.size(); ++i) boxes[boxes.size() - 1 - i] = odd[i];
  return boxes;
}

// <gradient, forward(maps)> = <backward(gradient), maps>, for every pair of maps and gradient.
template <class T>
void expect_adjoint(double tolerance) {
  Random random(5);
  for (const Kernels* set : instruction_sets()) {
    for (const int channels : {1, 8, 35}) {
      RoiAlignParams params = params_of(2, 20, channels, 3, {25, 13, 7});
      for (const bool aligned : {true, false}) {
        params.aligned = aligned;
        const std::vector<Box> boxes = some_boxes(40);
        const Maps<T> maps = random_maps<T>(random, params);
        std::vector<T> gradient(elements_of_output(params));
        for (T& value : gradient) value = narrow<T>(uniform(random, -1, 1));
        const std::vector<T> output = forward(*set, params, maps, boxes);
        const Maps<T> map_gradients = backward(*set, params, gradient, boxes, 5);
        double there = 0, back = 0;
        for (size_t i = 0; i < output.size(); ++i) there += double(to_float(output[i])) * to_float(gradient[i]);
        for (int level = 0; level < params.num_levels; ++level) {
          for (size_t i = 0; i < maps[level].size(); ++i) {
            back += double(to_float(map_gradients[level][i])) * to_float(maps[level][i]);
          }
        }
        EXPECT_NEAR(back, there, tolerance * std::sqrt(static_cast<double>(output.size())));
      }
    }
  }
}

bool same_bits(const Maps<float>& a, const Maps<float>& b) {
  for (size_t level = 0; level < a.size(); ++level) {
    if (a[level].size() != b[level].size()) return false;
    if (!a[level].empty() && std::memcmp(a[level].data(), b[level].data(), 4 * a[level].size()) != 0) return false;
  }
  return true;
}

}  // namespace

TEST(a_linear_ramp) {
  // A map of 6 rows and 8 columns whose value is its column; three bins over [0, 3). The first bin's first sample lies
  // left of the first centre and takes its value.
  RoiAlignParams params = params_of(1, 1, 1, 3, {6});
  params.widths[0] = 8;
  params.strides[0] = 1;
  Maps<float> maps(1);
  for (int i = 0; i < 48; ++i) maps[0].push_back(static_cast<float>(i % 8));
  for (const Kernels* set : instruction_sets()) {
    const std::vector<float> output = forward(*set, params, maps, {{0, 0, 3, 3}});
    for (int i = 0; i < 9; ++i) EXPECT_NEAR(output[i], (std::vector<double>{0.125, 1, 2})[i % 3], 1e-6);
  }
}

TEST(level_of_a_square) {
  RoiAlignParams params = params_of(1, 1, 1, 1, {8, 8, 8, 8});
  params.canonical_size = 224.0f;
  const int sizes[] = {0, 10, 111, 112, 223, 224, 447, 448, 896, 100000};
  const int levels[] = {0, 0, 0, 1, 1, 2, 2, 3, 3, 3};
  for (size_t i = 0; i < std::size(sizes); ++i) {
    const float size = static_cast<float>(sizes[i]);
    EXPECT_EQUAL(level_of_box(params, {0, 0, size, size}), levels[i]);
  }
  EXPECT_EQUAL(level_of_box(params, {-3e38f, -3e38f, 3e38f, 3e38f}), 3);
}

TEST(taps_of_a_bin_are_different_pixels_and_add_up_to_one) {
  Random random(6);
  for (int i = 0; i < 2000; ++i) {
    const RoiAxis axis = {uniform(random, 0, 20), uniform(random, 0, 3), 40};
    for (const int sampling_ratio : {1, 2, 3, kMaxSamplingRatio}) {
      Tap taps[2 * kMaxSamplingRatio];
      const int count = bin_taps(axis, 3, sampling_ratio, taps);
      double sum = 0;
      const IndexRange touched = touched_range(axis, 7, sampling_ratio);
      for (int k = 0; k < count; ++k) {
        sum += taps[k].weight;
        EXPECT(contains(touched, taps[k].index));
        for (int other = 0; other < k; ++other) EXPECT(taps[other].index != taps[k].index);
      }
      EXPECT_NEAR(sum, 1, 1e-5);
    }
  }
}

TEST(tiles_cover_every_pixel_once) {
  const RoiAlignParams params = params_of(2, 0, 1, 1, {17, 0, 5});
  for (const int edge : {1, 4, 16, 64}) {
    std::vector<std::vector<int>> covered(params.num_levels);
    for (int level = 0; level < params.num_levels; ++level) covered[level].resize(elements_of_map(params, level));
    for (int64_t i = 0; i < count_roi_align_tiles(params, edge); ++i) {
      const RoiTile tile = roi_align_tile(params, edge, i);
      for (int y = tile.rows.begin; y < tile.rows.end; ++y) {
        for (int x = tile.columns.begin; x < tile.columns.end; ++x) {
          ++covered[tile.level][(tile.image * params.heights[tile.level] + y) * params.widths[tile.level] + x];
        }
      }
    }
    for (const auto& level : covered) {
      for (const int times : level) EXPECT_EQUAL(times, 1);
    }
  }
}

TEST(forward_follows_the_definition) {
  Random random(1);
  for (const Kernels* set : instruction_sets()) {
    for (const int channels : {1, 7, 8, 9, 31, 32, 33, 40}) {
      RoiAlignParams params = params_of(2, 15, channels, 2, {25, 13, 7});
      params.sampling_ratio = channels % 3 + 1;
      params.aligned = channels % 2 == 0;
      const Maps<float> maps = random_maps<float>(random, params);
      const std::vector<Box> boxes = some_boxes(30);
      const std::vector<float> output = forward(*set, params, maps, boxes);
      size_t i = 0;
      for (int64_t box = 0; box < 30; ++box) {
        for (int bin = 0; bin < 4; ++bin) {
          for (int channel = 0; channel < channels; ++channel, ++i) {
            EXPECT_NEAR(output[i], expected_output(params, maps, boxes, box, bin / 2, bin % 2, channel), 1e-5);
          }
        }
      }
    }
  }
}

TEST(half_types_are_the_rounded_float_result) {
  Random random(2);
  const RoiAlignParams params = params_of(1, 13, 19, 3, {25, 13});
  const std::vector<Box> boxes = some_boxes(13);
  for (const Kernels* set : instruction_sets()) {
    const Maps<Half> maps = random_maps<Half>(random, params);
    Maps<float> wide(maps.size());
    for (size_t level = 0; level < maps.size(); ++level) {
      for (const Half value : maps[level]) wide[level].push_back(to_float(value));
    }
    const std::vector<Half> output = forward(*set, params, maps, boxes);
    const std::vector<float> expected = forward(*set, params, wide, boxes);
    for (size_t i = 0; i < output.size(); ++i) EXPECT_EQUAL(output[i].bits, narrow<Half>(expected[i]).bits);
  }
}

TEST(pieces_give_the_whole) {
  Random random(3);
  const RoiAlignParams params = params_of(2, 13, 11, 7, {25, 13});
  const Maps<float> maps = random_maps<float>(random, params);
  const std::vector<Box> boxes = some_boxes(26);
  for (const Kernels* set : instruction_sets()) {
    EXPECT(forward(*set, params, maps, boxes, 1) == forward(*set, params, maps, boxes, 5));
  }
}

TEST(backward_is_the_adjoint_of_forward) { expect_adjoint<float>(1e-5); }
TEST(backward_is_the_adjoint_of_forward_in_half) { expect_adjoint<Half>(2e-3); }
TEST(backward_is_the_adjoint_of_forward_in_bfloat16) { expect_adjoint<BFloat16>(1e-2); }

TEST(backward_has_the_same_bits_whatever_the_tiles) {
  Random random(7);
  const RoiAlignParams params = params_of(2, 40, 9, 7, {25, 13, 7});
  const std::vector<Box> boxes = some_boxes(80);
  std::vector<float> gradient(elements_of_output(params));
  for (float& value : gradient) value = uniform(random, -1, 1);
  for (const Kernels* set : instruction_sets()) {
    const Maps<float> expected = backward(*set, params, gradient, boxes, 16);
    for (const int edge : {1, 5, 64}) {
      EXPECT(same_bits(backward(*set, params, gradient, boxes, edge), expected));
      EXPECT(same_bits(backward(*set, params, gradient, boxes, edge, /*tiles_in_reverse=*/true), expected));
    }
  }
}

TEST(without_boxes_the_gradient_is_zero) {
  const RoiAlignParams params = params_of(2, 0, 3, 7, {9, 0});
  for (const Kernels* set : instruction_sets()) {
    for (const auto& level : backward<float>(*set, params, {}, {}, 4)) {
      for (const float value : level) EXPECT_EQUAL(value, 0.0f);
    }
  }
}

TEST(odd_boxes_and_empty_maps_give_finite_results) {
  Random random(8);
  const std::vector<Box> boxes = odd_boxes();
  for (const std::vector<int>& edges : {std::vector<int>{1}, {0}, {7, 0, 3}}) {
    const RoiAlignParams params = params_of(1, static_cast<int>(boxes.size()), 5, kMaxOutputSize, edges);
    const Maps<float> maps = random_maps<float>(random, params);
    const std::vector<float> gradient(elements_of_output(params), 1.0f);
    for (const Kernels* set : instruction_sets()) {
      for (const float value : forward(*set, params, maps, boxes)) EXPECT(is_finite(value));
      for (const auto& level : backward(*set, params, gradient, boxes, 4)) {
        for (const float value : level) EXPECT(is_finite(value));
      }
    }
  }
}
