// Sorting and selecting by rank.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>

#include "../ranking.h"

namespace mrcnn {

// Moves the best `wanted` of `count` to the front, best first. Returns how many there are.
static inline int sort_best(Ranked* ranked, int count, int wanted) {
  if (count > wanted) {
    std::nth_element(ranked, ranked + wanted - 1, ranked + count, std::greater<Ranked>());
    count = wanted;
  }
  std::sort(ranked, ranked + count, std::greater<Ranked>());
  return count;
}

// Keeps the best `wanted` of a stream of scores with rising indices, in a buffer of twice that size. A score that
// cannot enter costs one comparison: selecting 2,000 of 200,000 costs little more than reading them.
class StreamingTop {
 public:
  // buffer: capacity(wanted) elements; wanted >= 1.
  StreamingTop(Ranked* buffer, int wanted) : buffer_(buffer), wanted_(wanted) {}

  static int64_t capacity(int64_t wanted) { return 2 * wanted; }

  // False for NaN, for -infinity, and for scores below the `wanted` best so far.
  bool may_enter(float score) const { return score > bound_; }

  void push(float score, uint32_t index) {
    buffer_[count_++] = rank(score, index);
    if (count_ == capacity(wanted_)) shrink();
  }

  // Sorts what was kept, best first, to the front of the buffer, and returns how many.
  int finish() { return sort_best(buffer_, count_, wanted_); }

 private:
  void shrink() {
    std::nth_element(buffer_, buffer_ + wanted_ - 1, buffer_ + count_, std::greater<Ranked>());
    count_ = wanted_;
    const uint32_t ordered = static_cast<uint32_t>(buffer_[wanted_ - 1] >> 32);
    // Of equal scores the first one wins, and later ones have higher indices, so the comparison may be strict.
    bound_ = bits_to_float(ordered ^ (ordered >> 31 ? 0x80000000u : 0xffffffffu));
  }

  Ranked* buffer_;
  int wanted_;
  int count_ = 0;
  float bound_ = -HUGE_VALF;
};

}  // namespace mrcnn
