// The rules of one box and one position: by hand, and at the edges.
#include "../box.h"

#include "../bilinear.h"
#include "../mask_paste.h"
#include "../ranking.h"
#include "test_data.h"
#include "testing.h"

using namespace mrcnn;

namespace {

float iou_of(const Box& a, const Box& b) { return iou(a, area(a), b, area(b)); }

Box decoded(const Box& anchor, float dx, float dy, float dw, float dh, float max_log_scale = 4.0f) {
  const float delta[4] = {dx, dy, dw, dh};
  return decode(anchor, delta, max_log_scale);
}

}  // namespace

TEST(iou_by_hand) {
  EXPECT_NEAR(iou_of({10, 10, 30, 30}, {12, 10, 32, 30}), 18.0 / 22, 1e-7);
  EXPECT_EQUAL(iou_of({0, 0, 10, 10}, {0, 0, 10, 5}), 0.5f);
  EXPECT_EQUAL(iou_of({0, 0, 10, 10}, {10, 0, 20, 10}), 0.0f);  // they touch
}

TEST(iou_without_area_is_zero) {
  EXPECT_EQUAL(iou_of({5, 5, 5, 5}, {5, 5, 5, 5}), 0.0f);
  EXPECT_EQUAL(iou_of({5, 5, 5, 9}, {0, 0, 10, 10}), 0.0f);
  EXPECT_EQUAL(iou_of({9, 9, 2, 2}, {0, 0, 10, 10}), 0.0f);
}

TEST(iou_is_above_no_threshold_where_a_coordinate_is_not_a_number) {
  for (const Box& box : {Box{kNan, 0, 9, 9}, Box{0, kNan, 9, 9}, Box{0, 0, kNan, 9}, Box{0, 0, 9, kNan}}) {
    EXPECT(!(iou_of(box, {0, 0, 9, 9}) > 0.0f));
    EXPECT(!(iou_of({0, 0, 9, 9}, box) > 0.0f));
  }
}

TEST(decode_by_hand) {
  // Centre (20, 20) moves by (10, -5); 20 x 20 becomes 40 x 10.
  const Box box = decoded({10, 10, 30, 30}, 0.5f, -0.25f, std::log(2.0f), std::log(0.5f));
  EXPECT_NEAR(box.x1, 10, 1e-5);
  EXPECT_NEAR(box.y1, 10, 1e-5);
  EXPECT_NEAR(box.x2, 50, 1e-5);
  EXPECT_NEAR(box.y2, 20, 1e-5);
}

TEST(decode_bounds_the_scale_and_keeps_a_nan) {
  const Box box = decoded({40, 40, 56, 56}, 0, 0, 100, kInfinity, std::log(4.0f));
  EXPECT_NEAR(box.x2 - box.x1, 64, 1e-4);
  EXPECT_NEAR(box.y2 - box.y1, 64, 1e-4);
  EXPECT(!is_finite(decoded({0, 0, 9, 9}, 0, 0, kNan, 0)));
  EXPECT(!is_finite(decoded({0, 0, 9, 9}, kInfinity, 0, 0, 0)));
}

TEST(exponential_follows_the_library) {
  for (float x = -104.5f; x < 88.7f; x += 0.0137f) {
    const double expected = static_cast<float>(std::exp(static_cast<double>(x)));
    EXPECT_NEAR(exponential(x), expected, 1.2e-7 * expected + 1.5e-45);
  }
  EXPECT_EQUAL(exponential(0.0f), 1.0f);
  EXPECT_EQUAL(exponential(88.8f), kInfinity);
  EXPECT_EQUAL(exponential(kInfinity), kInfinity);
  EXPECT_EQUAL(exponential(-kInfinity), 0.0f);
  EXPECT(std::isnan(exponential(kNan)));
}

TEST(clip_by_hand) {
  const Box box = clip(Box{-5, -6, 20, 60}, 50, 15);
  EXPECT(box.x1 == 0 && box.y1 == 0 && box.x2 == 15 && box.y2 == 50);
}

TEST(linear_taps_between_and_beyond_the_centres) {
  const LinearTaps between = linear_taps(1.25f, 4);
  EXPECT(between.low == 1 && between.high == 2 && between.low_weight == 0.75f && between.high_weight == 0.25f);
  for (const float position : {-1e30f, -1.0f, -0.0f, 0.0f}) EXPECT_EQUAL(linear_taps(position, 4).high, 0);
  for (const float position : {3.0f, 3.5f, 1e30f}) EXPECT_EQUAL(linear_taps(position, 4).low, 3);
  EXPECT_EQUAL(linear_taps(0.5f, 1).high, 0);
}

TEST(touched_pixels_stay_in_the_image) {
  EXPECT(touched_pixels(3.7f, 5.2f, 10).begin == 3 && touched_pixels(3.7f, 5.2f, 10).end == 6);
  EXPECT(touched_pixels(-3e38f, 3e38f, 10).begin == 0 && touched_pixels(-3e38f, 3e38f, 10).end == 10);
  EXPECT_EQUAL(touched_pixels(20, 30, 10).begin, touched_pixels(20, 30, 10).end);
  EXPECT_EQUAL(touched_pixels(9, 3, 10).begin, touched_pixels(9, 3, 10).end);
}

TEST(rank_orders_scores_then_indices) {
  const float ascending[] = {-kInfinity, -3e38f, -1.5f, -1e-45f, 0.0f, 1e-45f, 0.25f, 3e38f, kInfinity};
  for (size_t i = 0; i + 1 < std::size(ascending); ++i) {
    EXPECT(rank(ascending[i], 0) < rank(ascending[i + 1], 0xfffffffeu));
  }
  EXPECT(rank(0.5f, 3) > rank(0.5f, 4));
  EXPECT_EQUAL(rank(-0.0f, 7), rank(0.0f, 7));
  EXPECT_EQUAL(index_of(rank(-2.5f, 123456789u)), 123456789u);
}
