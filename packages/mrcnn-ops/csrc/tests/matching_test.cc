// Matching: by hand, and against the whole matrix.
#include <algorithm>

#include "test_data.h"
#include "testing.h"

using namespace mrcnn;

namespace {

using Flags = std::vector<unsigned char>;  // std::vector<bool> has no data()

const bool* bools(const Flags& flags) { return reinterpret_cast<const bool*>(flags.data()); }

struct Matches {
  std::vector<float> best_iou;
  std::vector<int> best_gt;
  std::vector<float> crowd_overlap;
  Flags is_best_for_gt;

  explicit Matches(size_t count)
      : best_iou(count, kNan), best_gt(count, -7), crowd_overlap(count, kNan), is_best_for_gt(count) {}

  bool operator==(const Matches& other) const {
    return best_iou == other.best_iou && best_gt == other.best_gt && crowd_overlap == other.crowd_overlap &&
           is_best_for_gt == other.is_best_for_gt;
  }
};

struct Problem {
  std::vector<Box> boxes, gt_boxes, crowds;
  Flags boxes_valid, gt_valid;

  MatchTargets targets() const {
    return {gt_boxes.data(), bools(gt_valid), crowds.data(), static_cast<int>(gt_boxes.size()),
            static_cast<int>(crowds.size())};
  }
};

// In blocks, as the op does it.
Matches match(const Kernels& set, const Problem& problem, int64_t block) {
  const int64_t count = static_cast<int64_t>(problem.boxes.size());
  const size_t num_gt = problem.gt_boxes.size();
  const MatchTargets targets = problem.targets();
  const auto scratch = exact_scratch(match_scratch_floats(static_cast<int>(num_gt)) * sizeof(float));
  Matches result(count);
  std::vector<std::vector<float>> block_best;
  std::vector<float> best(num_gt);
  for (int64_t first = 0; first < count; first += block) {
    block_best.emplace_back(num_gt);
    set.match(targets, problem.boxes.data() + first, bools(problem.boxes_valid) + first, std::min(block, count - first),
              result.best_iou.data() + first, result.best_gt.data() + first, result.crowd_overlap.data() + first,
              block_best.back().data(), reinterpret_cast<float*>(scratch.get()));
    for (size_t gt = 0; gt < num_gt; ++gt) best[gt] = std::max(best[gt], block_best.back()[gt]);
  }
  for (int64_t first = 0; first < count; first += block) {
    set.mark_best(targets, problem.boxes.data() + first, bools(problem.boxes_valid) + first,
                  std::min(block, count - first), block_best[first / block].data(), best.data(),
                  reinterpret_cast<bool*>(result.is_best_for_gt.data()) + first);
  }
  return result;
}

float matrix_iou(const Problem& problem, size_t box, size_t gt) {
  if (!problem.boxes_valid[box] || !problem.gt_valid[gt]) return 0;
  const Box &a = problem.boxes[box], &b = problem.gt_boxes[gt];
  const float value = iou(a, area(a), b, area(b));
  return value > 0 ? value : 0;  // a NaN overlaps nothing
}

Matches expected(const Problem& problem) {
  const size_t num_gt = problem.gt_boxes.size();
  Matches result(problem.boxes.size());
  for (size_t i = 0; i < problem.boxes.size(); ++i) {
    result.best_iou[i] = 0, result.best_gt[i] = -1, result.crowd_overlap[i] = 0;
    if (!problem.boxes_valid[i]) continue;
    for (size_t gt = 0; gt < num_gt; ++gt) {
      if (!problem.gt_valid[gt]) continue;
      if (result.best_gt[i] >= 0 && !(matrix_iou(problem, i, gt) > result.best_iou[i])) continue;
      result.best_gt[i] = static_cast<int>(gt), result.best_iou[i] = matrix_iou(problem, i, gt);
    }
    for (const Box& crowd : problem.crowds) {
      const float part = share(intersection(problem.boxes[i], crowd), area(problem.boxes[i]));
      if (part > result.crowd_overlap[i]) result.crowd_overlap[i] = part;
    }
  }
  for (size_t gt = 0; gt < num_gt; ++gt) {
    float best = 0;
    for (size_t i = 0; i < problem.boxes.size(); ++i) best = std::max(best, matrix_iou(problem, i, gt));
    for (size_t i = 0; i < problem.boxes.size(); ++i) {
      if (best > 0 && matrix_iou(problem, i, gt) == best) result.is_best_for_gt[i] = 1;
    }
  }
  return result;
}

Flags random_flags(Random& random, size_t count) {
  Flags flags(count);
  for (auto& flag : flags) flag = uniform(random, 0, 1) < 0.8f;
  return flags;
}

}  // namespace

TEST(by_hand) {
  Problem problem;
  problem.boxes = {{0, 0, 10, 10}, {5, 0, 15, 10}, {90, 90, 99, 99}};
  problem.gt_boxes = {{0, 0, 10, 8}, {6, 0, 16, 10}};
  problem.crowds = {{0, 0, 5, 100}};
  problem.boxes_valid = Flags(3, 1), problem.gt_valid = Flags(2, 1);
  for (const Kernels* set : instruction_sets()) {
    const Matches matches = match(*set, problem, 8);
    EXPECT_EQUAL(matches.best_iou[0], 0.8f);
    EXPECT_NEAR(matches.best_iou[1], 90.0 / 110, 1e-7);
    EXPECT(matches.best_gt == (std::vector<int>{0, 1, 0}));
    EXPECT(matches.is_best_for_gt == (Flags{1, 1, 0}));
    EXPECT(matches.crowd_overlap == (std::vector<float>{0.5f, 0, 0}));
  }
}

TEST(the_whole_matrix_gives_the_same) {
  Random random(1);
  for (const Kernels* set : instruction_sets()) {
    for (const int count : {0, 1, 7, 8, 9, 63, 64, 65}) {
      for (const int num_gt : {0, 1, 9, 65}) {
        for (const bool ties : {false, true}) {
          const auto boxes = [&](int n) { return ties ? grid_boxes(random, n) : random_boxes(random, n, 60); };
          Problem problem = {boxes(count), boxes(num_gt), boxes(3), random_flags(random, count),
                             random_flags(random, num_gt)};
          EXPECT(match(*set, problem, 1 << 20) == expected(problem));
          EXPECT(match(*set, problem, 16) == expected(problem));
        }
      }
    }
  }
}

TEST(odd_boxes_on_either_side) {
  Random random(2);
  Problem problem;
  problem.boxes = odd_boxes();
  for (const Box& box : random_boxes(random, 30, 30)) problem.boxes.push_back(box);
  std::shuffle(problem.boxes.begin(), problem.boxes.end(), random);
  problem.gt_boxes = problem.boxes, problem.crowds = problem.boxes;
  problem.boxes_valid = Flags(problem.boxes.size(), 1), problem.gt_valid = Flags(problem.gt_boxes.size(), 1);
  for (const Kernels* set : instruction_sets()) {
    const Matches matches = match(*set, problem, 8);
    EXPECT(matches == expected(problem));
    for (const float value : matches.best_iou) EXPECT(value >= 0 && value <= 1);
    for (const float value : matches.crowd_overlap) EXPECT(is_finite(value));
  }
}
