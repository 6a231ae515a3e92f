// Class-wise NMS: by hand; pieces give the whole; odd input.
#include "../cpu/detections.h"

#include <algorithm>

#include "test_data.h"
#include "testing.h"

using namespace mrcnn;

namespace {

struct Result {
  std::vector<Box> boxes;
  std::vector<float> scores;
  std::vector<int> classes, rois;
  std::vector<unsigned char> valid;
};

Result detect(const DetectionParams& params, const std::vector<Box>& boxes, const std::vector<float>& scores,
              bool in_pieces = false) {
  const int64_t units = static_cast<int64_t>(params.num_images) * params.num_classes;
  std::vector<int> class_rois(units * max_class_detections(params)), class_counts(units);
  const size_t bytes = detections_scratch_bytes(params);
  const int64_t step = in_pieces ? 1 : units + 1;
  for (int64_t begin = 0; begin < units; begin += step) {
    const auto scratch = exact_scratch(bytes);
    detect_per_class(params, boxes.data(), scores.data(), begin, std::min(begin + step, units), class_rois.data(),
                     class_counts.data(), scratch.get());
  }
  const size_t wanted = static_cast<size_t>(params.num_images) * params.max_detections;
  Result result = {std::vector<Box>(wanted, Box{kNan, kNan, kNan, kNan}), std::vector<float>(wanted, kNan),
                   std::vector<int>(wanted, -7), std::vector<int>(wanted, -7), std::vector<unsigned char>(wanted, 9)};
  const Detections detections = {result.boxes.data(), result.scores.data(), result.classes.data(), result.rois.data(),
                                 reinterpret_cast<bool*>(result.valid.data())};
  for (int64_t image = 0; image < params.num_images; ++image) {
    const auto scratch = exact_scratch(bytes);
    merge_classes(params, boxes.data(), scores.data(), class_rois.data(), class_counts.data(), image, image + 1,
                  detections, scratch.get());
  }
  return result;
}

}  // namespace

TEST(classes_do_not_suppress_each_other) {
  const DetectionParams params = {1, 3, 2, true, 0.05f, 0.5f, 4};
  const std::vector<Box> boxes = {{10, 10, 30, 30}, {12, 10, 32, 30}, {60, 60, 90, 90}};
  const Result found = detect(params, boxes, {0.6f, 0.1f, 0.9f, 0.0f, 0.05f, 0.7f});
  EXPECT(found.classes == (std::vector<int>{1, 2, 2, 0}));
  EXPECT(found.rois == (std::vector<int>{1, 2, 0, 0}));
  EXPECT(found.scores == (std::vector<float>{0.9f, 0.7f, 0.1f, 0}));
  EXPECT(found.valid == (std::vector<unsigned char>{1, 1, 1, 0}));
  EXPECT_EQUAL(found.boxes[3].x2, 0.0f);
}

TEST(ties_go_by_class_then_roi) {
  const DetectionParams params = {1, 2, 2, true, 0.0f, 0.5f, 3};
  const Result found = detect(params, {{60, 60, 90, 90}, {1, 1, 9, 9}}, {0.5f, 0.5f, 0.5f, 0.5f});
  EXPECT(found.classes == (std::vector<int>{1, 1, 2}));
  EXPECT(found.rois == (std::vector<int>{0, 1, 0}));
}

TEST(pieces_give_the_whole) {
  Random random(1);
  for (const bool shared : {true, false}) {
    for (const int num_rois : {0, 1, 63, 64, 65}) {
      const DetectionParams params = {2, num_rois, 3, shared, 0.1f, 0.4f, 50};
      const std::vector<Box> boxes = random_boxes(random, 2 * num_rois * (shared ? 1 : 3), 60);
      std::vector<float> scores(2 * num_rois * 3);
      for (float& score : scores) score = std::floor(uniform(random, 0, 12)) / 12;
      const Result whole = detect(params, boxes, scores), pieces = detect(params, boxes, scores, /*in_pieces=*/true);
      EXPECT(whole.scores == pieces.scores && whole.classes == pieces.classes && whole.rois == pieces.rois);
      for (size_t i = 0; i + 1 < 50; ++i) EXPECT(whole.scores[i] >= whole.scores[i + 1]);
    }
  }
}

TEST(odd_boxes_and_scores) {
  const std::vector<Box> boxes = odd_boxes();
  const DetectionParams params = {1, static_cast<int>(boxes.size()), 2, true, -kInfinity, 0.5f, 60};
  std::vector<float> scores(2 * boxes.size(), 0.5f);
  scores[0] = kNan, scores[3] = kInfinity, scores[5] = -kInfinity;
  const Result found = detect(params, boxes, scores);
  for (const Box& box : found.boxes) EXPECT(is_finite(box));
  for (const float score : found.scores) EXPECT(is_finite(score));
}

TEST(no_classes) {
  const Result found = detect({1, 4, 0, true, 0.0f, 0.5f, 2}, std::vector<Box>(4), {});
  EXPECT(found.valid == (std::vector<unsigned char>{0, 0}));
}
