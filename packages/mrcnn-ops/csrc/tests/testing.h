// A minimal test framework: TEST, three expectations, main. Each test program includes it once.
#pragma once

#include <cmath>
#include <cstdio>
#include <sstream>
#include <string>
#include <vector>

namespace mrcnn {

struct TestCase {
  const char* name;
  void (*run)();
};

inline std::vector<TestCase>& test_cases() {
  static std::vector<TestCase> cases;
  return cases;
}

inline int num_failures = 0;

struct Registration {
  Registration(const char* name, void (*run)()) { test_cases().push_back({name, run}); }
};

inline void fail(const char* file, int line, const std::string& message) {
  std::printf("%s:%d: %s\n", file, line, message.c_str());
  ++num_failures;
}

template <class A, class B>
void expect_equal(const char* file, int line, const char* what, const A& actual, const B& expected) {
  if (actual == expected) return;
  std::ostringstream message;
  message << what << " is " << actual << ", not " << expected;
  fail(file, line, message.str());
}

inline void expect_near(const char* file, int line, const char* what, double actual, double expected,
                        double tolerance) {
  if (std::fabs(actual - expected) <= tolerance) return;
  std::ostringstream message;
  message << what << " is " << actual << ", not " << expected << " (within " << tolerance << ")";
  fail(file, line, message.str());
}

}  // namespace mrcnn

#define TEST(name)                                             \
  static void name();                                          \
  static const mrcnn::Registration name##_is_run(#name, name); \
  static void name()

#define EXPECT(condition) \
  if (!(condition)) mrcnn::fail(__FILE__, __LINE__, "not so: " #condition)
#define EXPECT_EQUAL(actual, expected) mrcnn::expect_equal(__FILE__, __LINE__, #actual, actual, expected)
#define EXPECT_NEAR(actual, expected, tolerance) \
  mrcnn::expect_near(__FILE__, __LINE__, #actual, actual, expected, tolerance)

int main() {
  for (const mrcnn::TestCase& test : mrcnn::test_cases()) {
    const int before = mrcnn::num_failures;
    test.run();
    std::printf("%s %s\n", mrcnn::num_failures == before ? "ok    " : "FAILED", test.name);
  }
  return mrcnn::num_failures == 0 ? 0 : 1;
}
