// Checks of the CUDA kernels against the CPU kernels, on random and edge inputs. A Machine runs the grid: on the host,
// thread by thread (cuda_grid_test.cc), or on a GPU (bench/gpu_check). It has
//
//   template <class T> Array<T>   memory of the machine, with data()
//   upload(vector) -> Array, allocate<T>(count) -> Array, not initialised, download(Array) -> vector
//   roi_align_forward, roi_align_backward, generate_proposals, match_boxes, multiclass_nms,
//       fold, fold_backward, group_norm, group_norm_backward, gradient_norm, sgd  as cuda/kernels.h has them, less
//       stream and scratch
#pragma once

#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "../cuda/batch_norm_grid.h"
#include "../cuda/detections_grid.h"
#include "../cuda/group_norm_grid.h"
#include "../cuda/matching_grid.h"
#include "../cuda/proposals_grid.h"
#include "../cuda/roi_align_grid.h"
#include "../cuda/sgd_grid.h"
#include "cpu_reference.h"

namespace mrcnn {

// Prints one line per check.
class Report {
 public:
  void line(const std::string& name, bool passed, const std::string& detail) {
    std::printf("%-6s %-58s %s\n", passed ? "ok" : "FAILED", name.c_str(), detail.c_str());
    ++(passed ? num_passed_ : num_failed_);
  }
  int num_passed() const { return num_passed_; }
  int num_failed() const { return num_failed_; }

 private:
  int num_passed_ = 0, num_failed_ = 0;
};

// ---- inputs ----

using Random = std::mt19937;

inline float uniform(Random& random, float low, float high) {
  return low + (high - low) * static_cast<float>(random() >> 8) / 16777216.0f;
}

inline float normal(Random& random) {  // near enough
  float sum = -6.0f;
  for (int i = 0; i < 12; ++i) sum += uniform(random, 0.0f, 1.0f);
  return sum;
}

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Boxes of all sizes, some of them partly outside.
inline std::vector<Box> random_boxes(Random& random, int64_t count, float extent) {
  std::vector<Box> boxes(count);
  for (Box& box : boxes) {
    const float width = std::exp(uniform(random, 0.0f, std::log(extent)));
    const float height = std::exp(uniform(random, 0.0f, std::log(extent)));
    const float x = uniform(random, -0.2f * extent, extent), y = uniform(random, -0.2f * extent, extent);
    box = {x, y, x + width, y + height};
  }
  return boxes;
}

// Corners on a coarse lattice, so that boxes and IoUs tie.
inline std::vector<Box> lattice_boxes(Random& random, int64_t count) {
  std::vector<Box> boxes(count);
  for (Box& box : boxes) {
    const float x = static_cast<float>(random() % 4 * 8), y = static_cast<float>(random() % 4 * 8);
    box = {x, y, x + static_cast<float>(8 + random() % 2 * 8), y + static_cast<float>(8 + random() % 2 * 8)};
  }
  return boxes;
}

// Invalid input that some programs pass all the same.
inline std::vector<Box> edge_boxes() {
  return {{0, 0, 0, 0},
          {10, 10, 10, 30},
          {30, 30, 10, 10},
          {-50, -50, -10, -10},
          {900, 900, 950, 950},
          {-1e6f, -1e6f, 1e6f, 1e6f},
          {0, 0, 1e6f, 1e6f},
          {1e6f, 1e6f, 2e6f, 2e6f},
          {kNan, 0, 10, 10},
          {0, 0, 10, kNan},
          {0, 0, kInfinity, 10},
          {-kInfinity, 0, 10, 10},
          {-1e38f, -1e38f, 1e38f, 1e38f},
          {0, 0, 64, 64},
          {-1, -1, 65, 65},
          {63.5f, 63.5f, 64.5f, 64.5f},
          {0.5f, 0.5f, 0.5f, 0.5f},
          {1e-30f, 1e-30f, 2e-30f, 2e-30f},
          {16, 0, 0, 16},
          {8, 8, 40, 40}};
}

// The edge boxes, then random ones, up to `count`.
inline std::vector<Box> mixed_boxes(Random& random, int64_t count, float extent) {
  std::vector<Box> boxes = random_boxes(random, count, extent);
  const std::vector<Box> edges = edge_boxes();
  for (size_t i = 0; i < edges.size() && i < boxes.size(); ++i) boxes[i] = edges[i];
  return boxes;
}

template <class T>
std::vector<T> random_values(Random& random, int64_t count) {
  std::vector<T> values(count);
  for (T& value : values) from_float(normal(random), &value);
  return values;
}

// ---- comparison ----

// Counts the places whose bits differ; all NaNs are equal.
template <class T>
int64_t count_different(const std::vector<T>& a, const std::vector<T>& b) {
  int64_t different = 0;
  for (size_t i = 0; i < a.size(); ++i) different += std::memcmp(&a[i], &b[i], sizeof(T)) != 0;
  return a.size() == b.size() ? different : std::numeric_limits<int64_t>::max();
}

struct Difference {
  double greatest = 0.0;  // relative to 1 + |expected|
  int64_t different = 0;  // in bits
  int64_t count = 0;

  template <class T>
  void add(const std::vector<T>& actual, const std::vector<T>& expected) {
    for (size_t i = 0; i < expected.size(); ++i) {
      const double a = to_float(actual[i]), b = to_float(expected[i]);
      ++count;
      if (std::memcmp(&actual[i], &expected[i], sizeof(T)) == 0) continue;
      ++different;
      const double error = std::abs(a - b) / (1.0 + std::abs(b));
      greatest = error <= greatest ? greatest : std::isnan(error) ? kInfinity : error;
    }
  }

  std::string text() const {
    char line[96];
    std::snprintf(line, sizeof(line), "%lld of %lld differ, at most by %.1e", static_cast<long long>(different),
                  static_cast<long long>(count), greatest);
    return line;
  }
};

// ---- ROIAlign ----

template <class T>
const char* type_name();
template <>
inline const char* type_name<float>() {
  return "float32";
}
template <>
inline const char* type_name<Half>() {
  return "float16";
}
template <>
inline const char* type_name<BFloat16>() {
  return "bfloat16";
}

template <class T>
double tolerance() {
  return sizeof(T) == 4 ? 1e-5 : 1e-2;
}  // one rounding of bfloat16 is 4e-3

struct RoiAlignCase {
  const char* name;
  RoiAlignParams params;
};

inline RoiAlignParams roi_align_params(int num_images, int num_boxes, int channels, int output_size, int num_levels) {
  RoiAlignParams params = {};
  params.num_images = num_images;
  params.num_boxes = num_boxes;
  params.channels = channels;
  params.output_size = output_size;
  params.sampling_ratio = 2;
  params.aligned = true;
  params.min_level = 2;
  params.canonical_level = 4;
  params.canonical_size = 56.0f;  // small boxes reach several levels
  params.num_levels = num_levels;
  for (int level = 0; level < num_levels; ++level) {
    params.strides[level] = static_cast<float>(4 << level);
    params.heights[level] = 80 >> level;
    params.widths[level] = 104 >> level;
  }
  return params;
}

inline std::vector<RoiAlignCase> roi_align_cases() {
  std::vector<RoiAlignCase> cases = {
      {"4 levels, 7 x 7, 64 channels", roi_align_params(2, 61, 64, 7, 4)},
      {"14 x 14", roi_align_params(1, 30, 32, 14, 4)},
      {"3 channels", roi_align_params(2, 40, 3, 5, 3)},
      {"300 boxes", roi_align_params(1, 300, 8, 2, 2)},
      {"136 channels, 3 samples", roi_align_params(1, 25, 136, 3, 2)},
      {"not aligned", roi_align_params(2, 33, 16, 7, 3)},
      {"64 bins, 8 samples", roi_align_params(1, 22, 8, 64, 1)},
      {"1 box, 1 channel, 1 bin", roi_align_params(1, 1, 1, 1, 1)},
      {"no box", roi_align_params(2, 0, 8, 7, 2)},
      {"no image", roi_align_params(0, 5, 8, 7, 2)},
      {"an empty level", roi_align_params(2, 40, 8, 7, 3)},
      {"maps of one pixel", roi_align_params(1, 40, 8, 2, 2)},
  };
  cases[4].params.sampling_ratio = 3;
  cases[5].params.aligned = false;
  cases[6].params.sampling_ratio = 8;
  cases[10].params.heights[1] = 0;
  for (int level = 0; level < 2; ++level) cases[11].params.heights[level] = cases[11].params.widths[level] = 1;
  return cases;
}

// Where the CPU kernel multiplies and adds fused, as the grid does, results are the same to the bit.
template <class T>
bool same_bits_expected(const RoiAlignParams& params) {
  return params.channels % 8 == 0 && std::string(kernels().instruction_set) == "avx2";
}

template <class Machine, class T>
void check_roi_align(Machine& machine, Report& report, const RoiAlignCase& test) {
  const RoiAlignParams& params = test.params;
  Random random(7);
  const std::vector<Box> boxes =
      mixed_boxes(random, static_cast<int64_t>(params.num_images) * params.num_boxes, 300.0f);
  const auto device_boxes = machine.upload(boxes);
  std::vector<std::vector<T>> features;
  std::vector<decltype(machine.upload(features[0]))> device_maps;
  const T* maps[kMaxLevels] = {};
  for (int level = 0; level < params.num_levels; ++level) {
    features.push_back(random_values<T>(random, elements_of_map(params, level)));
    device_maps.push_back(machine.upload(features[level]));
    maps[level] = device_maps[level].data();
  }
  const auto name = [&](const char* what) { return std::string(what) + " " + type_name<T>() + ": " + test.name; };
  const auto judge = [&](const char* what, const Difference& difference, double allowed, bool same_bits) {
    const bool passed = difference.greatest <= allowed && (!same_bits || difference.different == 0);
    report.line(name(what), passed, difference.text() + (same_bits ? " (none may)" : ""));
  };

  auto output = machine.template allocate<T>(elements_of_output(params));
  machine.roi_align_forward(params, maps, device_boxes.data(), output.data());
  Difference forward;
  forward.add(machine.download(output), cpu_roi_align(params, features, boxes));
  judge("roi_align", forward, tolerance<T>(), same_bits_expected<T>(params));

  const std::vector<T> gradient = random_values<T>(random, elements_of_output(params));
  const auto device_gradient = machine.upload(gradient);
  const auto expected = cpu_roi_align_gradient(params, gradient, boxes);
  for (const bool deterministic : {true, false}) {
    std::vector<decltype(machine.template allocate<T>(0))> results;
    T* result_maps[kMaxLevels] = {};
    for (int level = 0; level < params.num_levels; ++level) {
      results.push_back(machine.template allocate<T>(elements_of_map(params, level)));
      result_maps[level] = results[level].data();
    }
    machine.roi_align_backward(params, deterministic, device_gradient.data(), device_boxes.data(), result_maps);
    Difference backward;
    for (int level = 0; level < params.num_levels; ++level) {
      backward.add(machine.download(results[level]), expected[level]);
    }
    // In another order, a sum of hundreds of float32 differs by more than its last bits.
    judge(deterministic ? "gradient, reproducible," : "gradient, atomic,", backward,
          deterministic ? tolerance<T>() : std::max(1e-4, tolerance<T>()),
          deterministic && same_bits_expected<T>(params));
  }
}

// ---- proposals ----

struct ProposalCase {
  std::string name;
  ProposalParams params;
  std::vector<float> logits, deltas;
  std::vector<Box> anchors;
  std::vector<int> image_sizes;
};

inline ProposalCase proposal_case(const char* name, Random& random, std::vector<int> level_sizes, int num_images,
                                  int pre, int post, int wanted) {
  ProposalCase test;
  test.name = name;
  ProposalParams& params = test.params = {};
  params.num_images = num_images;
  params.num_levels = static_cast<int>(level_sizes.size());
  for (int level = 0; level < params.num_levels; ++level) {
    params.level_begin[level + 1] = params.level_begin[level] + level_sizes[level];
  }
  params.num_anchors = params.level_begin[params.num_levels];
  params.pre_nms_top_k = pre;
  params.post_nms_top_k = post;
  params.num_proposals = wanted;
  params.nms_threshold = 0.7f;
  params.max_log_scale = 4.4f;
  test.anchors = random_boxes(random, params.num_anchors, 200.0f);
  test.logits.resize(static_cast<size_t>(num_images) * params.num_anchors);
  test.deltas.resize(test.logits.size() * 4);
  for (float& logit : test.logits) logit = 2.0f * normal(random);
  for (float& delta : test.deltas) delta = 0.3f * normal(random);
  for (int image = 0; image < num_images; ++image) {
    test.image_sizes.push_back(200 - 30 * image);
    test.image_sizes.push_back(150 + 20 * image);
  }
  return test;
}

inline std::vector<ProposalCase> proposal_cases() {
  Random random(11);
  std::vector<ProposalCase> cases;
  cases.push_back(proposal_case("3 images, 4 levels", random, {9000, 2300, 600, 100}, 3, 1000, 500, 800));
  for (const int size : {0, 1, 63, 64, 65, 128, 129}) {
    const std::string name = std::to_string(size) + " anchors";
    cases.push_back(proposal_case(name.c_str(), random, {size}, 1, 1000, 1000, 70));
  }
  cases.push_back(proposal_case("an empty level", random, {100, 0, 50}, 2, 40, 30, 60));
  cases.push_back(proposal_case("no level", random, {}, 2, 40, 30, 60));
  cases.push_back(proposal_case("no image", random, {100}, 0, 40, 30, 60));
  cases.push_back(proposal_case("the best one", random, {3000, 500}, 2, 1, 1, 1));
  cases.push_back(proposal_case("equal logits", random, {5000, 200}, 2, 700, 300, 400));
  for (float& logit : cases.back().logits) logit = 0.25f;
  cases.push_back(proposal_case("few values of logits, ties of boxes", random, {4000, 1000}, 2, 777, 300, 400));
  for (float& logit : cases.back().logits) logit = static_cast<float>(static_cast<int>(random() % 7)) - 3.0f;
  for (float& delta : cases.back().deltas) delta = 0.0f;
  cases.back().anchors = lattice_boxes(random, 5000);
  cases.push_back(proposal_case("logits that differ in the last bits", random, {4000}, 1, 1000, 500, 400));
  for (float& logit : cases.back().logits) logit = bits_to_float(0x3f800000u + random() % 1024);
  cases.push_back(proposal_case("zeros of both signs", random, {300}, 1, 100, 100, 100));
  for (float& logit : cases.back().logits) logit = random() % 2 ? 0.0f : -0.0f;
  cases.push_back(proposal_case("NaN, infinity, extremes", random, {2000, 300}, 2, 900, 500, 600));
  for (float& logit : cases.back().logits) {
    const float extremes[] = {kNan, kInfinity, -kInfinity, 3.4e38f, -3.4e38f, 1e-42f, -1e-42f, 1.0f};
    if (random() % 2) logit = extremes[random() % 8];
  }
  for (float& delta : cases.back().deltas) {
    const float extremes[] = {kNan, kInfinity, -kInfinity, 1e6f, -1e6f, 3e38f, 0.0f, 100.0f};
    if (random() % 16 == 0) delta = extremes[random() % 8];
  }
  cases.back().anchors = mixed_boxes(random, 2300, 200.0f);
  cases.push_back(proposal_case("all outside", random, {500}, 1, 100, 100, 100));
  for (Box& box : cases.back().anchors) box = {1000, 1000, 1010, 1010};
  cases.push_back(proposal_case("Tensorpack's rule: empty boxes, padding", random, {1500, 200}, 2, 600, 300, 500));
  cases.back().params.keep_empty = cases.back().params.keep_padding_anchors = true;
  cases.push_back(proposal_case("at least 20 pixels, threshold 0", random, {1500, 200}, 2, 600, 300, 500));
  cases.back().params.min_size = 20.0f;
  cases.back().params.nms_threshold = 0.0f;
  return cases;
}

template <class Machine>
void check_proposals(Machine& machine, Report& report, const ProposalCase& test) {
  const ProposalParams& params = test.params;
  const ProposalResult expected =
      cpu_generate_proposals(params, test.logits, test.deltas, test.anchors, test.image_sizes);
  const auto logits = machine.upload(test.logits);
  const auto deltas = machine.upload(test.deltas);
  const auto anchors = machine.upload(test.anchors);
  const auto image_sizes = machine.upload(test.image_sizes);
  auto boxes = machine.template allocate<Box>(expected.boxes.size());
  auto scores = machine.template allocate<float>(expected.scores.size());
  auto valid = machine.template allocate<unsigned char>(expected.valid.size());
  machine.generate_proposals(params, {logits.data(), deltas.data(), anchors.data(), image_sizes.data()},
                             {boxes.data(), scores.data(), reinterpret_cast<bool*>(valid.data())});
  const int64_t different = count_different(machine.download(boxes), expected.boxes) +
                            count_different(machine.download(scores), expected.scores) +
                            count_different(machine.download(valid), expected.valid);
  int64_t num_valid = 0;
  for (const unsigned char flag : expected.valid) num_valid += flag;
  report.line("generate_proposals: " + test.name, different == 0,
              std::to_string(num_valid) + " proposals, " + std::to_string(different) + " values differ");
}

// ---- matching ----

struct MatchCase {
  std::string name;
  MatchParams params;
  std::vector<Box> boxes, gt_boxes, crowd_boxes;
  Flags boxes_valid, gt_valid;
};

inline MatchCase match_case(const std::string& name, Random& random, MatchParams params) {
  MatchCase test;
  test.name = name;
  test.params = params;
  const int64_t images = params.num_images;
  test.boxes = random_boxes(random, (params.boxes_are_shared ? 1 : images) * params.num_boxes, 300.0f);
  test.gt_boxes = random_boxes(random, images * params.num_gt, 300.0f);
  test.crowd_boxes = random_boxes(random, images * params.num_crowds, 300.0f);
  for (int64_t i = 0; i < images * params.num_gt; ++i) test.gt_valid.push_back(random() % 4 != 0);
  return test;
}

inline std::vector<MatchCase> match_cases() {
  Random random(13);
  std::vector<MatchCase> cases;
  cases.push_back(match_case("3000 shared boxes, 20 ground truths", random, {2, 3000, 20, 3, true}));
  for (const int size : {0, 1, 63, 64, 65, 255, 256, 257}) {
    cases.push_back(match_case(std::to_string(size) + " boxes", random, {2, size, 7, 2, false}));
  }
  for (const int size : {0, 1, 511, 512, 513, 2000}) {
    cases.push_back(match_case(std::to_string(size) + " ground truths", random, {2, 300, size, 1, false}));
  }
  cases.push_back(match_case("some boxes not valid", random, {2, 500, 30, 4, false}));
  for (int i = 0; i < 1000; ++i) cases.back().boxes_valid.push_back(random() % 3 != 0);
  cases.push_back(match_case("no ground truth valid, no crowd", random, {2, 300, 9, 0, true}));
  for (unsigned char& flag : cases.back().gt_valid) flag = 0;
  cases.push_back(match_case("ties", random, {2, 1000, 40, 5, false}));
  cases.back().boxes = lattice_boxes(random, 2000);
  cases.back().gt_boxes = lattice_boxes(random, 80);
  cases.back().crowd_boxes = lattice_boxes(random, 10);
  cases.push_back(match_case("NaN, infinite, huge, inverted", random, {1, 400, 60, 30, false}));
  cases.back().boxes = mixed_boxes(random, 400, 300.0f);
  cases.back().gt_boxes = mixed_boxes(random, 60, 300.0f);
  cases.back().crowd_boxes = mixed_boxes(random, 30, 300.0f);
  cases.push_back(match_case("no image", random, {0, 10, 5, 2, false}));
  return cases;
}

template <class Machine>
void check_matching(Machine& machine, Report& report, const MatchCase& test) {
  const MatchParams& params = test.params;
  const MatchResult expected =
      cpu_match_boxes(params, test.boxes, test.boxes_valid, test.gt_boxes, test.gt_valid, test.crowd_boxes);
  const auto boxes = machine.upload(test.boxes);
  const auto gt_boxes = machine.upload(test.gt_boxes);
  const auto crowd_boxes = machine.upload(test.crowd_boxes);
  const auto boxes_valid = machine.upload(test.boxes_valid);
  const auto gt_valid = machine.upload(test.gt_valid);
  const size_t count = expected.best_iou.size();
  auto best_iou = machine.template allocate<float>(count);
  auto best_gt = machine.template allocate<int>(count);
  auto is_best = machine.template allocate<unsigned char>(count);
  auto crowd_overlap = machine.template allocate<float>(count);
  machine.match_boxes(
      params,
      {boxes.data(), test.boxes_valid.empty() ? nullptr : reinterpret_cast<const bool*>(boxes_valid.data()),
       gt_boxes.data(), reinterpret_cast<const bool*>(gt_valid.data()), crowd_boxes.data()},
      {best_iou.data(), best_gt.data(), reinterpret_cast<bool*>(is_best.data()), crowd_overlap.data()});
  const int64_t different = count_different(machine.download(best_iou), expected.best_iou) +
                            count_different(machine.download(best_gt), expected.best_gt) +
                            count_different(machine.download(is_best), expected.is_best_for_gt) +
                            count_different(machine.download(crowd_overlap), expected.crowd_overlap);
  report.line("match_boxes: " + test.name, different == 0, std::to_string(different) + " values differ");
}

// ---- detections ----

struct DetectionCase {
  std::string name;
  DetectionParams params;
  std::vector<Box> boxes;
  std::vector<float> scores;
};

inline DetectionCase detection_case(const std::string& name, Random& random, DetectionParams params) {
  DetectionCase test;
  test.name = name;
  test.params = params;
  const int64_t rois = static_cast<int64_t>(params.num_images) * params.num_rois;
  test.boxes = random_boxes(random, rois * (params.shared_boxes ? 1 : params.num_classes), 150.0f);
  test.scores.resize(rois * params.num_classes);
  for (float& score : test.scores) score = uniform(random, 0.0f, 1.0f);
  return test;
}

inline std::vector<DetectionCase> detection_cases() {
  Random random(17);
  std::vector<DetectionCase> cases;
  cases.push_back(detection_case("2 images, 300 boxes, 12 classes", random, {2, 300, 12, false, 0.3f, 0.5f, 100}));
  cases.push_back(detection_case("shared boxes", random, {2, 200, 5, true, 0.05f, 0.3f, 100}));
  for (const int size : {0, 1, 63, 64, 65, 127, 128, 129}) {
    cases.push_back(detection_case(std::to_string(size) + " boxes", random, {1, size, 2, false, -1.0f, 0.9f, 300}));
  }
  cases.push_back(detection_case("ties of scores and boxes", random, {2, 500, 3, false, 0.1f, 0.4f, 200}));
  cases.back().boxes = lattice_boxes(random, 3000);
  for (float& score : cases.back().scores) score = static_cast<float>(random() % 5) * 0.25f;
  cases.push_back(detection_case("threshold 0", random, {1, 400, 2, false, 0.1f, 0.0f, 100}));
  cases.push_back(detection_case("threshold 1: nothing suppresses", random, {1, 400, 2, false, 0.1f, 1.0f, 1000}));
  cases.push_back(detection_case("NaN, infinite, huge, inverted", random, {1, 300, 2, false, 0.0f, 0.5f, 100}));
  cases.back().boxes = mixed_boxes(random, 600, 150.0f);
  for (float& score : cases.back().scores) {
    const float extremes[] = {kNan, kInfinity, -kInfinity, 0.0f};
    if (random() % 8 == 0) score = extremes[random() % 4];
  }
  cases.push_back(detection_case("no score above the threshold", random, {2, 50, 3, false, 2.0f, 0.5f, 10}));
  cases.push_back(detection_case("no class", random, {2, 50, 0, false, 0.1f, 0.5f, 10}));
  cases.push_back(detection_case("no image", random, {0, 50, 3, false, 0.1f, 0.5f, 10}));
  cases.push_back(detection_case("the best one", random, {2, 200, 4, false, 0.1f, 0.5f, 1}));
  // 1,500 candidates take 330 KB of scratch a class: several batches.
  cases.push_back(detection_case("more classes than a batch holds", random, {1, 1500, 250, true, 0.97f, 0.5f, 50}));
  return cases;
}

template <class Machine>
void check_detections(Machine& machine, Report& report, const DetectionCase& test) {
  const DetectionParams& params = test.params;
  const DetectionResult expected = cpu_multiclass_nms(params, test.boxes, test.scores);
  const auto device_boxes = machine.upload(test.boxes);
  const auto device_scores = machine.upload(test.scores);
  const size_t count = expected.boxes.size();
  auto boxes = machine.template allocate<Box>(count);
  auto scores = machine.template allocate<float>(count);
  auto classes = machine.template allocate<int>(count);
  auto roi_indices = machine.template allocate<int>(count);
  auto valid = machine.template allocate<unsigned char>(count);
  machine.multiclass_nms(
      params, {device_boxes.data(), device_scores.data()},
      {boxes.data(), scores.data(), classes.data(), roi_indices.data(), reinterpret_cast<bool*>(valid.data())});
  const int64_t different = count_different(machine.download(boxes), expected.boxes) +
                            count_different(machine.download(scores), expected.scores) +
                            count_different(machine.download(classes), expected.classes) +
                            count_different(machine.download(roi_indices), expected.roi_indices) +
                            count_different(machine.download(valid), expected.valid);
  int64_t num_valid = 0;
  for (const unsigned char flag : expected.valid) num_valid += flag;
  report.line("multiclass_nms: " + test.name, different == 0,
              std::to_string(num_valid) + " detections, " + std::to_string(different) + " values differ");
}

// ---- folding of batch norm ----

template <class Machine, class T>
void check_fold(Machine& machine, Report& report, int64_t rows, int64_t channels) {
  Random random(23);
  const FoldShape shape = {rows, channels, 1e-5f};
  const auto kernel = random_values<float>(random, rows * channels);
  const auto gradient = random_values<T>(random, rows * channels);
  const auto gamma = random_values<float>(random, channels), beta = random_values<float>(random, channels);
  const auto mean = random_values<float>(random, channels), of_bias = random_values<float>(random, channels);
  std::vector<float> variance(channels);
  for (float& value : variance) value = uniform(random, 0.01f, 4.0f);

  std::vector<T> folded(rows * channels);
  std::vector<float> bias(channels), of_kernel(rows * channels), of_gamma(channels), of_beta(channels);
  const BatchNorm norm = {gamma.data(), beta.data(), mean.data(), variance.data()};
  cpu_fold<T>(shape, kernel.data(), norm, {folded.data(), bias.data()});
  cpu_fold_backward<T>(shape, {kernel.data(), gradient.data(), of_bias.data()}, norm,
                       {of_kernel.data(), of_gamma.data(), of_beta.data()});

  const auto device_kernel = machine.upload(kernel);
  const auto device_gradient = machine.upload(gradient);
  const auto device_of_bias = machine.upload(of_bias);
  const auto device_gamma = machine.upload(gamma);
  const auto device_beta = machine.upload(beta);
  const auto device_mean = machine.upload(mean);
  const auto device_variance = machine.upload(variance);
  const BatchNorm device_norm = {device_gamma.data(), device_beta.data(), device_mean.data(), device_variance.data()};
  auto result = machine.template allocate<T>(rows * channels);
  auto result_bias = machine.template allocate<float>(channels);
  machine.fold(shape, device_kernel.data(), device_norm, FoldOutputs<T>{result.data(), result_bias.data()});
  auto result_of_kernel = machine.template allocate<float>(rows * channels);
  auto result_of_gamma = machine.template allocate<float>(channels);
  auto result_of_beta = machine.template allocate<float>(channels);
  machine.fold_backward(
      shape, FoldGradientInputs<T>{device_kernel.data(), device_gradient.data(), device_of_bias.data()}, device_norm,
      FoldGradients{result_of_kernel.data(), result_of_gamma.data(), result_of_beta.data()});

  const int64_t different = count_different(machine.download(result), folded) +
                            count_different(machine.download(result_bias), bias) +
                            count_different(machine.download(result_of_kernel), of_kernel) +
                            count_different(machine.download(result_of_beta), of_beta);
  Difference sums;  // in another order than the CPU's
  sums.add(machine.download(result_of_gamma), of_gamma);
  report.line(
      std::string("fold_batch_norm ") + type_name<T>() + ": " + std::to_string(rows) + " x " + std::to_string(channels),
      different == 0 && sums.greatest <= 1e-4, std::to_string(different) + " values differ; gamma: " + sums.text());
}

// ---- group norm ----

struct GroupNormResult {
  std::vector<double> y, dx, dgamma, dbeta;
};

// Straight from the definition, in float64, one group after the other.
template <class T>
GroupNormResult group_norm_reference(const GroupNormShape& shape, const std::vector<T>& x, const std::vector<T>& dy,
                                     const std::vector<float>& gamma, const std::vector<float>& beta) {
  GroupNormResult result = {std::vector<double>(x.size()), std::vector<double>(x.size()),
                            std::vector<double>(shape.channels), std::vector<double>(shape.channels)};
  const int64_t width = shape.channels_of_group();
  for (int64_t unit = 0; unit < shape.images * shape.groups; ++unit) {
    const int64_t first = unit / shape.groups * shape.positions * shape.channels + unit % shape.groups * width;
    const auto for_each = [&](const auto& visit) {  // index, channel
      for (int64_t i = 0; i < shape.positions * width; ++i) {
        visit(first + i / width * shape.channels + i % width, unit % shape.groups * width + i % width);
      }
    };
    double sum = 0.0, squares = 0.0, a = 0.0, b = 0.0;
    for_each([&](int64_t i, int64_t) { sum += to_float(x[i]); });
    const double mean = sum / shape.count();
    for_each([&](int64_t i, int64_t) { squares += (to_float(x[i]) - mean) * (to_float(x[i]) - mean); });
    const double r = 1.0 / std::sqrt(squares / shape.count() + shape.epsilon);
    std::vector<double> open(x.size());  // the gradient behind the ReLU
    for_each([&](int64_t i, int64_t c) {
      const double xhat = (to_float(x[i]) - mean) * r, y = xhat * gamma[c] + beta[c];
      result.y[i] = shape.relu && y < 0.0 ? 0.0 : y;
      open[i] = shape.relu && y <= 0.0 ? 0.0 : to_float(dy[i]);
      result.dgamma[c] += open[i] * xhat;
      result.dbeta[c] += open[i];
      a += gamma[c] * open[i] / shape.count();
      b += gamma[c] * open[i] * xhat / shape.count();
    });
    for_each(
        [&](int64_t i, int64_t c) { result.dx[i] = r * (gamma[c] * open[i] - a - (to_float(x[i]) - mean) * r * b); });
  }
  return result;
}

template <class T>
double greatest_error(const std::vector<T>& actual, const std::vector<double>& expected) {
  double greatest = 0.0, scale = 1.0;
  for (const double value : expected) scale = std::max(scale, std::abs(value));
  for (size_t i = 0; i < expected.size(); ++i) {
    const double error = std::abs(to_float(actual[i]) - expected[i]) / scale;
    greatest = error <= greatest ? greatest : std::isnan(error) ? kInfinity : error;
  }
  return greatest;
}

template <class Machine, class T>
void check_group_norm(Machine& machine, Report& report, const GroupNormShape& shape) {
  Random random(29);
  const int64_t count = shape.images * shape.positions * shape.channels;
  const auto x = random_values<T>(random, count), dy = random_values<T>(random, count);
  const auto gamma = random_values<float>(random, shape.channels), beta = random_values<float>(random, shape.channels);
  const GroupNormResult expected = group_norm_reference(shape, x, dy, gamma, beta);
  const auto device_x = machine.upload(x), device_dy = machine.upload(dy);
  const auto device_gamma = machine.upload(gamma), device_beta = machine.upload(beta);
  auto mean = machine.template allocate<float>(shape.images * shape.groups);
  auto deviation = machine.template allocate<float>(shape.images * shape.groups);
  auto y = machine.template allocate<T>(count), dx = machine.template allocate<T>(count);
  auto dgamma = machine.template allocate<float>(shape.channels),
       dbeta = machine.template allocate<float>(shape.channels);
  machine.group_norm(shape, device_x.data(), device_gamma.data(), device_beta.data(), y.data(),
                     GroupStatistics{mean.data(), deviation.data()});
  machine.group_norm_backward(shape,
                              NormInputs<T>{device_x.data(), device_dy.data(), device_gamma.data(), device_beta.data(),
                                            mean.data(), deviation.data()},
                              dx.data(), dgamma.data(), dbeta.data());
  const double of_maps =
      std::max(greatest_error(machine.download(y), expected.y), greatest_error(machine.download(dx), expected.dx));
  const double of_parameters = std::max(greatest_error(machine.download(dgamma), expected.dgamma),
                                        greatest_error(machine.download(dbeta), expected.dbeta));
  char name[96], errors[64];
  std::snprintf(name, sizeof(name), "group_norm %s: %d x %d x %d, %d groups%s", type_name<T>(),
                static_cast<int>(shape.images), static_cast<int>(shape.positions), static_cast<int>(shape.channels),
                static_cast<int>(shape.groups), shape.relu ? ", ReLU" : "");
  std::snprintf(errors, sizeof(errors), "errors of %.1e and %.1e", of_maps, of_parameters);
  report.line(name, of_maps <= tolerance<T>() && of_parameters <= 1e-5, errors);
}

inline std::vector<GroupNormShape> group_norm_shapes() {
  return {{2, 257, 32, 8, 1e-5f, true}, {1, 9, 12, 3, 1e-5f, false},    {3, 4, 5, 5, 1e-3f, true},
          {1, 600, 40, 1, 1e-5f, true}, {2, 1000, 64, 32, 1e-5f, true}, {1, 1, 8, 2, 1e-5f, false},
          {0, 5, 8, 2, 1e-5f, true},    {2, 0, 8, 2, 1e-5f, true}};
}

// ---- SGD ----

struct SgdCase {
  const char* name;
  std::vector<int64_t> counts;  // elements of each variable
  bool in_place;
  bool is_taken;
};

inline std::vector<SgdCase> sgd_cases() {
  const std::vector<int64_t> edges = {1, 0, 7, 8, 255, 256, 257, kSgdChunk - 1, kSgdChunk, kSgdChunk + 1, 100001};
  std::vector<int64_t> many;  // several launches
  for (int64_t i = 0; i < 2 * SgdGroup::kMost + 1; ++i) many.push_back(i * i % 97);
  return {
      {"edges of blocks and chunks", edges, true, true},
      {"new memory", edges, false, true},
      {"not taken", edges, true, false},
      {"not taken, new memory", edges, false, false},
      {"more variables than a launch takes", many, true, true},
      {"one number", {1}, true, true},
      {"no element", {0, 0}, true, true},
  };
}

// The arrays of one machine, and variables that point to them.
template <class Array>
struct SgdArrays {
  std::vector<Array> gradients, values, momenta, new_values, new_momenta;
  std::vector<SgdVariable> variables;

  template <class Upload>
  SgdArrays(const SgdCase& test, const Upload& upload) {
    Random random(19);
    for (const int64_t count : test.counts) {
      for (auto* arrays : {&gradients, &values, &momenta})
        arrays->push_back(upload(random_values<float>(random, count)));
      for (auto* arrays : {&new_values, &new_momenta}) arrays->push_back(upload(std::vector<float>(count, kNan)));
      const bool in_place = test.in_place;
      variables.push_back({gradients.back().data(), values.back().data(), count, uniform(random, 0.0f, 0.1f),
                           uniform(random, 1.0f, 2.0f), momenta.back().data(),
                           (in_place ? values : new_values).back().data(),
                           (in_place ? momenta : new_momenta).back().data()});
    }
  }
};

template <class Machine>
void check_sgd(Machine& machine, Report& report, const SgdCase& test) {
  const int count = static_cast<int>(test.counts.size());
  SgdArrays<std::vector<float>> expected(test, [](const std::vector<float>& values) { return values; });
  SgdArrays<decltype(machine.template allocate<float>(0))> actual(
      test, [&](const std::vector<float>& values) { return machine.upload(values); });
  const SgdStep step = {0.25f, 0.7f, 0.02f, 0.9f};
  const auto scale = machine.upload(std::vector<float>{step.scale});
  const auto clip = machine.upload(std::vector<float>{step.clip});
  const auto rate = machine.upload(std::vector<float>{step.rate});
  const auto is_taken = machine.upload(Flags{test.is_taken});
  auto norm = machine.template allocate<float>(1);
  machine.gradient_norm(actual.variables.data(), count, scale.data(), norm.data());
  const float actual_norm = machine.download(norm)[0],
              expected_norm = cpu_gradient_norm(expected.variables, step.scale);
  report.line(std::string("gradient_norm: ") + test.name,
              std::abs(actual_norm - expected_norm) <= 2e-7f * expected_norm,
              std::to_string(actual_norm) + ", CPU: " + std::to_string(expected_norm));

  machine.sgd(actual.variables.data(), count,
              {scale.data(), clip.data(), rate.data(), reinterpret_cast<const bool*>(is_taken.data()), step.momentum});
  if (test.is_taken) {
    cpu_sgd(expected.variables, step);
  } else if (!test.in_place) {
    expected.new_values = expected.values;
    expected.new_momenta = expected.momenta;
  }
  int64_t different = 0;
  for (int i = 0; i < count; ++i) {
    different += count_different(machine.download(actual.values[i]), expected.values[i]) +
                 count_different(machine.download(actual.momenta[i]), expected.momenta[i]);
    if (test.in_place) continue;
    different += count_different(machine.download(actual.new_values[i]), expected.new_values[i]) +
                 count_different(machine.download(actual.new_momenta[i]), expected.new_momenta[i]);
  }
  report.line(std::string("sgd: ") + test.name, different == 0, std::to_string(different) + " values differ");
}

template <class Machine>
void check_everything(Machine& machine, Report& report) {
  for (const RoiAlignCase& test : roi_align_cases()) {
    check_roi_align<Machine, float>(machine, report, test);
    check_roi_align<Machine, Half>(machine, report, test);
    check_roi_align<Machine, BFloat16>(machine, report, test);
  }
  for (const ProposalCase& test : proposal_cases()) check_proposals(machine, report, test);
  for (const MatchCase& test : match_cases()) check_matching(machine, report, test);
  for (const DetectionCase& test : detection_cases()) check_detections(machine, report, test);
  const std::pair<int64_t, int64_t> folds[] = {{1, 1}, {0, 5}, {9, 31}, {255, 32}, {256, 33}, {257, 64}, {4608, 40}};
  for (const auto& [rows, channels] : folds) {
    check_fold<Machine, float>(machine, report, rows, channels);
    check_fold<Machine, Half>(machine, report, rows, channels);
    check_fold<Machine, BFloat16>(machine, report, rows, channels);
  }
  for (const GroupNormShape& shape : group_norm_shapes()) {
    check_group_norm<Machine, float>(machine, report, shape);
    check_group_norm<Machine, Half>(machine, report, shape);
    check_group_norm<Machine, BFloat16>(machine, report, shape);
  }
  for (const SgdCase& test : sgd_cases()) check_sgd(machine, report, test);
}

}  // namespace mrcnn
