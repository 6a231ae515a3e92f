// The 16-bit formats: every value there and back, and rounding by hand.
#include "../half.h"

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
void expect_every_value_returns() {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float value = to_float(T{static_cast<uint16_t>(bits)});
    if (std::isnan(value)) {
      EXPECT(std::isnan(to_float(narrow<T>(value))));
    } else {
      EXPECT_EQUAL(narrow<T>(value).bits, bits);
    }
  }
}

// A value between two neighbours goes to the nearer one, and from the middle to the even one.
template <class T>
void expect_rounding_to_nearest_even() {
  for (uint32_t bits = 0; bits < 0x7bffu; ++bits) {
    const float low = to_float(T{static_cast<uint16_t>(bits)}), high = to_float(T{static_cast<uint16_t>(bits + 1)});
    if (!is_finite(high)) break;
    const float middle = low + (high - low) / 2;
    EXPECT_EQUAL(narrow<T>(middle).bits, bits + (bits & 1));
    EXPECT_EQUAL(narrow<T>(std::nextafter(middle, low)).bits, bits);
    EXPECT_EQUAL(narrow<T>(std::nextafter(middle, high)).bits, bits + 1);
  }
}

}  // namespace

TEST(every_half_returns) { expect_every_value_returns<Half>(); }
TEST(every_bfloat16_returns) { expect_every_value_returns<BFloat16>(); }
TEST(half_rounds_to_nearest_even) { expect_rounding_to_nearest_even<Half>(); }
TEST(bfloat16_rounds_to_nearest_even) { expect_rounding_to_nearest_even<BFloat16>(); }

TEST(known_halves) {
  EXPECT_EQUAL(narrow<Half>(1.0f).bits, 0x3c00);
  EXPECT_EQUAL(narrow<Half>(-2.0f).bits, 0xc000);
  EXPECT_EQUAL(narrow<Half>(65504.0f).bits, 0x7bff);
  EXPECT_EQUAL(narrow<Half>(65519.0f).bits, 0x7bff);
  EXPECT_EQUAL(narrow<Half>(65520.0f).bits, 0x7c00);
  EXPECT_EQUAL(narrow<Half>(-kInfinity).bits, 0xfc00);
  EXPECT_EQUAL(narrow<Half>(5.9604645e-8f).bits, 1);
  EXPECT_EQUAL(narrow<Half>(2.9e-8f).bits, 0);
  EXPECT_EQUAL(narrow<BFloat16>(1.0f).bits, 0x3f80);
}
