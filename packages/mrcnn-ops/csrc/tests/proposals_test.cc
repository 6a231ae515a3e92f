// Proposals: by hand; pieces give the whole; odd input stays finite and inside the image.
#include "../cpu/proposals.h"

#include "../cpu/ranking.h"
#include "test_data.h"
#include "testing.h"

using namespace mrcnn;

namespace {

struct Proposals {
  std::vector<Box> boxes;
  std::vector<float> scores;
  std::vector<unsigned char> valid;
};

ProposalParams params_of(int num_images, const std::vector<int>& level_sizes, int top_k, int num_proposals) {
  ProposalParams params = {};
  params.num_images = num_images;
  params.num_levels = static_cast<int>(level_sizes.size());
  for (int level = 0; level < params.num_levels; ++level) {
    params.level_begin[level + 1] = params.level_begin[level] + level_sizes[level];
  }
  params.num_anchors = params.level_begin[params.num_levels];
  params.pre_nms_top_k = params.post_nms_top_k = top_k;
  params.num_proposals = num_proposals;
  params.nms_threshold = 0.7f;
  params.max_log_scale = 4.0f;
  return params;
}

Proposals proposals_of(const ProposalParams& params, const std::vector<float>& logits, const std::vector<float>& deltas,
                       const std::vector<Box>& anchors, const std::vector<int>& image_sizes, bool in_pieces = false) {
  const int64_t units = static_cast<int64_t>(params.num_images) * params.num_levels;
  const size_t row = max_level_proposals(params);
  std::vector<Box> level_boxes(units * row);
  std::vector<float> level_scores(units * row);
  std::vector<int> level_counts(units);
  const size_t bytes = proposals_scratch_bytes(params);
  const int64_t step = in_pieces ? 1 : units + 1;
  for (int64_t begin = 0; begin < units; begin += step) {
    const auto scratch = exact_scratch(bytes);
    propose_per_level(params, logits.data(), deltas.data(), anchors.data(), image_sizes.data(), begin,
                      std::min(begin + step, units), level_boxes.data(), level_scores.data(), level_counts.data(),
                      scratch.get());
  }
  const size_t wanted = static_cast<size_t>(params.num_images) * params.num_proposals;
  Proposals result = {std::vector<Box>(wanted, Box{kNan, kNan, kNan, kNan}), std::vector<float>(wanted, kNan),
                      std::vector<unsigned char>(wanted, 9)};
  for (int64_t image = 0; image < params.num_images; ++image) {
    const auto scratch = exact_scratch(bytes);
    merge_levels(params, level_boxes.data(), level_scores.data(), level_counts.data(), image, image + 1,
                 result.boxes.data(), result.scores.data(), reinterpret_cast<bool*>(result.valid.data()),
                 scratch.get());
  }
  return result;
}

}  // namespace

TEST(best_first_overlapping_ones_dropped_rest_zero) {
  const std::vector<Box> anchors = {{10, 10, 30, 30}, {12, 10, 32, 30}, {60, 60, 90, 90}, {10, 10, 30, 30}};
  // The second level's anchor is the first level's first: levels do not suppress each other.
  const Proposals found =
      proposals_of(params_of(1, {3, 1}, 5, 4), {1, 3, 2, 2.5f}, std::vector<float>(16), anchors, {100, 100});
  EXPECT(found.scores == (std::vector<float>{3, 2.5f, 2, 0}));
  EXPECT(found.valid == (std::vector<unsigned char>{1, 1, 1, 0}));
  EXPECT(found.boxes[0].x1 == 12 && found.boxes[1].x1 == 10 && found.boxes[2].x1 == 60 && found.boxes[3].x2 == 0);
}

TEST(streaming_selection_is_a_sort) {
  Random random(1);
  for (const int wanted : {1, 2, 7, 64}) {
    for (const int count : {0, 1, 63, 64, 65, 1000}) {
      std::vector<Ranked> all, buffer(StreamingTop::capacity(wanted));
      StreamingTop top(buffer.data(), wanted);
      for (int i = 0; i < count; ++i) {
        const float score = std::floor(uniform(random, -9, 9));  // ties
        all.push_back(rank(score, i));
        if (top.may_enter(score)) top.push(score, i);
      }
      std::sort(all.begin(), all.end(), std::greater<Ranked>());
      all.resize(std::min(wanted, count));
      EXPECT_EQUAL(top.finish(), static_cast<int>(all.size()));
      EXPECT(std::equal(all.begin(), all.end(), buffer.begin()));
    }
  }
}

TEST(pieces_give_the_whole) {
  Random random(2);
  const std::vector<int> level_sizes = {150, 0, 70, 3};
  const std::vector<Box> anchors = random_boxes(random, 223, 100);
  std::vector<float> logits(2 * 223), deltas(2 * 223 * 4);
  for (float& value : logits) value = std::floor(uniform(random, -20, 20));
  for (float& value : deltas) value = uniform(random, -0.5f, 0.5f);
  for (const int top_k : {1, 40, 500}) {
    const ProposalParams params = params_of(2, level_sizes, top_k, 60);
    const Proposals whole = proposals_of(params, logits, deltas, anchors, {80, 100, 100, 50});
    const Proposals pieces = proposals_of(params, logits, deltas, anchors, {80, 100, 100, 50}, /*in_pieces=*/true);
    EXPECT(whole.scores == pieces.scores && whole.valid == pieces.valid);
    EXPECT(std::memcmp(whole.boxes.data(), pieces.boxes.data(), sizeof(Box) * whole.boxes.size()) == 0);
  }
}

TEST(odd_input_stays_finite_and_inside) {
  Random random(3);
  const float odd[] = {kNan, kInfinity, -kInfinity, 3e38f, -3e38f, 1e6f, -1e6f, 0.0f, 1e-45f, 1.0f};
  const auto any = [&] { return odd[random() % std::size(odd)]; };
  for (int round = 0; round < 300; ++round) {
    ProposalParams params = params_of(1, {20, 0, 15}, 1 + round % 40, 50);
    params.keep_empty = round % 2 == 0;
    params.keep_padding_anchors = round % 3 == 0;
    std::vector<float> logits(35), deltas(140);
    std::vector<Box> anchors = random_boxes(random, 35, 100);
    for (float& value : logits) value = any();
    for (float& value : deltas) value = random() % 2 == 0 ? any() : uniform(random, -1, 1);
    for (int i = 0; i < 10; ++i) anchors[random() % 35] = {any(), any(), any(), any()};
    const Proposals found = proposals_of(params, logits, deltas, anchors, {77, round % 5 == 0 ? 0 : 99});
    for (const Box& box : found.boxes) {
      EXPECT(box.x1 >= 0 && box.y1 >= 0 && box.x2 <= 99 && box.y2 <= 77 && is_finite(box));
    }
    for (const float score : found.scores) EXPECT(is_finite(score));
  }
}

TEST(nothing_to_propose) {
  const Proposals no_anchors = proposals_of(params_of(1, {0, 0}, 5, 3), {}, {}, {}, {10, 10});
  EXPECT(no_anchors.valid == (std::vector<unsigned char>{0, 0, 0}));
  const Proposals no_levels = proposals_of(params_of(1, {}, 5, 3), {}, {}, {}, {10, 10});
  EXPECT(no_levels.valid == (std::vector<unsigned char>{0, 0, 0}));
}
