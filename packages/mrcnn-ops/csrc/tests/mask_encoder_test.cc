// Masks to run-length code: by hand, and against bitmaps.
#include "../cpu/mask_encoder.h"

#include <algorithm>

#include "../bilinear.h"
#include "../mask_paste.h"
#include "test_data.h"
#include "testing.h"

using namespace mrcnn;

namespace {

std::string encode(const std::vector<float>& mask, int size, const Box& box, int height, int width,
                   float threshold = 0.5f) {
  std::string counts = "left over";
  MaskEncoder(size).encode(mask.data(), box, height, width, threshold, &counts);
  return counts;
}

// Decodes by COCO's rule: [height * width], columns first.
std::vector<int> decode_counts(const std::string& counts) {
  std::vector<int64_t> runs;
  std::vector<int> pixels;
  for (size_t i = 0; i < counts.size();) {
    int64_t number = 0;
    int shift = 0, group;
    do {
      group = counts[i++] - 48;
      number |= static_cast<int64_t>(group & 31) << shift;
      shift += 5;
    } while (group & 32);
    if (group & 16) number -= int64_t{1} << shift;
    if (runs.size() > 2) number += runs[runs.size() - 2];
    pixels.insert(pixels.end(), number, static_cast<int>(runs.size() % 2));
    runs.push_back(number);
  }
  return pixels;
}

std::vector<int> paste(const std::vector<float>& mask, int size, const Box& box, int height, int width) {
  std::vector<int> pixels(static_cast<size_t>(height) * width);
  if (!is_finite(box) || !(box.x2 > box.x1) || !(box.y2 > box.y1)) return pixels;
  const PixelRange rows = touched_pixels(box.y1, box.y2, height), columns = touched_pixels(box.x1, box.x2, width);
  for (int x = columns.begin; x < columns.end; ++x) {
    const LinearTaps across = linear_taps(mask_position(x, box.x1, box.x2 - box.x1, size), size);
    for (int y = rows.begin; y < rows.end; ++y) {
      const LinearTaps down = linear_taps(mask_position(y, box.y1, box.y2 - box.y1, size), size);
      const auto at = [&](int row) {
        const float low = mask[row * size + across.low], high = mask[row * size + across.high];
        return low + across.high_weight * (high - low);
      };
      const float low = at(down.low), high = at(down.high);
      pixels[static_cast<size_t>(x) * height + y] = low + down.high_weight * (high - low) > 0.5f;
    }
  }
  return pixels;
}

}  // namespace

TEST(known_codes) {
  const std::vector<float> ones(16, 1.0f);
  EXPECT_EQUAL(encode(ones, 4, {5, 5, 9, 9}, 2, 3), "6");
  EXPECT_EQUAL(encode(ones, 4, {0, 0, 3, 2}, 2, 3), "06");
  EXPECT_EQUAL(encode(ones, 4, {1, 0, 2, 2}, 2, 3), "222");
}

TEST(bitmaps_give_the_same) {
  Random random(1);
  for (const int size : {1, 2, 5, 28}) {
    for (int round = 0; round < 60; ++round) {
      std::vector<float> mask(size * size);
      for (float& value : mask) value = uniform(random, 0, 1);
      if (round % 7 == 0) mask[random() % mask.size()] = kNan;
      Box box = random_boxes(random, 1, 40)[0];
      if (round % 3 == 0) box = {std::round(box.x1), std::round(box.y1), std::round(box.x2), std::round(box.y2)};
      EXPECT(decode_counts(encode(mask, size, box, 31, 37)) == paste(mask, size, box, 31, 37));
    }
  }
}

TEST(odd_boxes_give_a_mask_of_the_right_size) {
  const std::vector<float> mask(9, 1.0f);
  for (const Box& box : odd_boxes()) {
    const std::vector<int> pixels = decode_counts(encode(mask, 3, box, 20, 30));
    EXPECT_EQUAL(pixels.size(), 600u);
    if (!is_finite(box)) EXPECT_EQUAL(std::count(pixels.begin(), pixels.end(), 1), 0);
  }
}

TEST(a_huge_image_costs_no_bitmap) {
  const std::string counts = encode(std::vector<float>(4, 1.0f), 2, {0, 1, 1, 3}, 2147483647, 1);
  EXPECT_EQUAL(counts.substr(0, 1), "1");
  EXPECT(counts.size() < 20);
}

TEST(an_encoder_can_be_used_again) {
  Random random(2);
  std::vector<float> mask(25);
  for (float& value : mask) value = uniform(random, 0, 1);
  MaskEncoder encoder(5);
  for (const Box& box : random_boxes(random, 20, 40)) {
    std::string again;
    encoder.encode(mask.data(), box, 30, 40, 0.5f, &again);
    EXPECT_EQUAL(again, encode(mask, 5, box, 30, 40));
  }
}
