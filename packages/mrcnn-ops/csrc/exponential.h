// e^x with the same bits on every machine. The mathematical libraries of host and device differ in the last place, and
// then a box decoded on a GPU could fall on the other side of an NMS threshold.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "host_device.h"

namespace mrcnn {

// Computed in double precision to a relative error of about 1e-13 and rounded once. A NaN stays a NaN. Needs a compiler
// that does not fuse products and sums (-ffp-contract=off, nvcc -fmad=false).
MRCNN_HD static inline float exponential(float x) {
  if (x != x) return x;
  if (x > 89.0f) return HUGE_VALF;  // e^88.73 is above the greatest float
  if (x < -104.0f) return 0.0f;     // e^-103.98 is below half of the least
  // e^x = 2^k e^r with |r| <= log(2) / 2, and the Taylor series of e^r to r^12.
  const double k = rint(static_cast<double>(x) * 1.4426950408889634);
  const double r = static_cast<double>(x) - k * 0.6931471805599453;
  const double inverse_factorials[] = {
      1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720,
      1.0 / 120,       1.0 / 24,       1.0 / 6,       0.5,          1.0,         1.0};
  double sum = 0.0;
  for (const double term : inverse_factorials) sum = sum * r + term;
  const uint64_t bits = static_cast<uint64_t>(static_cast<int64_t>(k) + 1023) << 52;
  double power_of_two;
  memcpy(&power_of_two, &bits, sizeof(power_of_two));
  return static_cast<float>(sum * power_of_two);
}

}  // namespace mrcnn
