// Boxes and numbers for the tests of kernels, and the instruction sets to run them with.
#pragma once

#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "../cpu/kernels.h"

namespace mrcnn {

namespace portable {
extern const Kernels kernels;
}
#ifdef MRCNN_HAVE_AVX2
namespace avx2 {
extern const Kernels kernels;
}
#endif

// The kernels of every instruction set that this processor has.
inline std::vector<const Kernels*> instruction_sets() {
  std::vector<const Kernels*> sets = {&portable::kernels};
#ifdef MRCNN_HAVE_AVX2
  if (std::strcmp(kernels().instruction_set, "avx2") == 0) sets.push_back(&avx2::kernels);
#endif
  return sets;
}

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Exactly as many bytes as requested, so that the address sanitizer sees an access one byte beyond.
inline std::unique_ptr<char[]> exact_scratch(size_t bytes) { return std::unique_ptr<char[]>(new char[bytes]); }

using Random = std::mt19937;

inline float uniform(Random& random, float low, float high) {
  return std::uniform_real_distribution<float>(low, high)(random);
}

// Boxes of all sizes in and around an image of size x size.
inline std::vector<Box> random_boxes(Random& random, int count, float size) {
  std::vector<Box> boxes(count);
  for (Box& box : boxes) {
    const float width = std::exp(uniform(random, 0, std::log(1.2f * size)));
    const float height = std::exp(uniform(random, 0, std::log(1.2f * size)));
    const float x = uniform(random, -0.1f * size, 1.1f * size), y = uniform(random, -0.1f * size, 1.1f * size);
    box = {x - width / 2, y - height / 2, x + width / 2, y + height / 2};
  }
  return boxes;
}

// Corners on a grid of 5 x 5: equal boxes, equal IoUs, no area, inverted.
inline std::vector<Box> grid_boxes(Random& random, int count) {
  std::vector<Box> boxes(count);
  std::uniform_int_distribution<int> corner(0, 4);
  for (Box& box : boxes) {
    box.x1 = corner(random), box.y1 = corner(random), box.x2 = corner(random), box.y2 = corner(random);
  }
  return boxes;
}

inline std::vector<Box> odd_boxes() {
  return {
      {0, 0, 0, 0},                    // a point
      {5, 5, 5, 9},                    // no width
      {20, 20, 4, 4},                  // inverted
      {20, 4, 4, 20},                  // inverted in x
      {-50, -50, -20, -20},            // outside
      {1e6f, 1e6f, 2e6f, 2e6f},        // far outside
      {-1e6f, -1e6f, 1e6f, 1e6f},      // huge
      {-3e38f, -3e38f, 3e38f, 3e38f},  // its size is infinite
      {3e38f, 0, -3e38f, 1},
      {kNan, 0, 9, 9},
      {0, 0, kInfinity, 9},
      {-kInfinity, -kInfinity, kInfinity, kInfinity},
      {0, kNan, kNan, 9},
  };
}

}  // namespace mrcnn
