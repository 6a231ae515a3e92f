// NMS: by hand, and against a plain double loop.
#include <algorithm>

#include "test_data.h"
#include "testing.h"

using namespace mrcnn;

namespace {

std::vector<int> kept_by(const Kernels& set, const std::vector<Box>& boxes, float threshold, int max_kept) {
  std::vector<int> kept(std::max(max_kept, 1));
  const auto scratch = exact_scratch(nms_scratch_floats(max_kept) * sizeof(float));
  const int count = set.nms(boxes.data(), static_cast<int>(boxes.size()), threshold, max_kept,
                            reinterpret_cast<float*>(scratch.get()), kept.data());
  kept.resize(count);
  return kept;
}

std::vector<int> expected(const std::vector<Box>& boxes, float threshold, int max_kept) {
  std::vector<int> kept;
  for (int i = 0; i < static_cast<int>(boxes.size()) && static_cast<int>(kept.size()) < max_kept; ++i) {
    const auto covers = [&](int k) { return iou(boxes[i], area(boxes[i]), boxes[k], area(boxes[k])) > threshold; };
    if (std::none_of(kept.begin(), kept.end(), covers)) kept.push_back(i);
  }
  return kept;
}

}  // namespace

TEST(by_hand) {
  const std::vector<Box> boxes = {{12, 10, 32, 30}, {60, 60, 90, 90}, {10, 10, 30, 30}};
  for (const Kernels* set : instruction_sets()) {
    EXPECT(kept_by(*set, boxes, 0.7f, 3) == (std::vector<int>{0, 1}));
    EXPECT(kept_by(*set, boxes, 0.9f, 3) == (std::vector<int>{0, 1, 2}));
    EXPECT(kept_by(*set, boxes, 0.9f, 2) == (std::vector<int>{0, 1}));
    EXPECT(kept_by(*set, boxes, 0.9f, 0).empty());
  }
}

TEST(threshold_is_exclusive) {
  const std::vector<Box> boxes = {{0, 0, 10, 10}, {0, 0, 10, 5}};  // IoU exactly 0.5
  for (const Kernels* set : instruction_sets()) {
    EXPECT_EQUAL(kept_by(*set, boxes, 0.5f, 2).size(), 2u);
    EXPECT_EQUAL(kept_by(*set, boxes, 0.49f, 2).size(), 1u);
  }
}

TEST(random_boxes_and_ties) {
  Random random(1);
  for (const Kernels* set : instruction_sets()) {
    for (const int count : {0, 1, 7, 8, 9, 63, 64, 65, 300}) {
      for (const float threshold : {0.0f, 0.3f, 0.5f, 1.0f}) {
        for (const int max_kept : {1, 8, 64, 500}) {
          const std::vector<Box> spread = random_boxes(random, count, 100), tied = grid_boxes(random, count);
          EXPECT(kept_by(*set, spread, threshold, max_kept) == expected(spread, threshold, max_kept));
          EXPECT(kept_by(*set, tied, threshold, max_kept) == expected(tied, threshold, max_kept));
        }
      }
    }
  }
}

TEST(odd_boxes_among_others) {
  Random random(2);
  std::vector<Box> boxes = odd_boxes();
  for (const Box& box : random_boxes(random, 60, 50)) boxes.push_back(box);
  std::shuffle(boxes.begin(), boxes.end(), random);
  for (const Kernels* set : instruction_sets()) EXPECT(kept_by(*set, boxes, 0.5f, 80) == expected(boxes, 0.5f, 80));
}
