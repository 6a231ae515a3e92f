// Total order over (score, index): higher scores first, at equal scores the lower index. Both packed into one integer,
// larger is better, so that sorting and selecting compare one word and ties are always decided alike.
#pragma once

#include <cstdint>

#include "half.h"
#include "host_device.h"

namespace mrcnn {

using Ranked = uint64_t;

// Order of a score as an integer, larger is better; above 0 for every number. `score` must not be NaN. -0 and +0 are
// equal, as they are as numbers.
MRCNN_HD static inline uint32_t order_of(float score) {
  const uint32_t bits = float_to_bits(score + 0.0f);
  return bits ^ (bits >> 31 ? 0xffffffffu : 0x80000000u);
}

MRCNN_HD static inline Ranked rank_of_order(uint32_t order, uint32_t index) {
  return static_cast<Ranked>(order) << 32 | (0xffffffffu - index);
}

MRCNN_HD static inline Ranked rank(float score, uint32_t index) { return rank_of_order(order_of(score), index); }

MRCNN_HD static inline uint32_t index_of(Ranked ranked) { return 0xffffffffu - static_cast<uint32_t>(ranked); }

MRCNN_HD static inline uint32_t order_of_rank(Ranked ranked) { return static_cast<uint32_t>(ranked >> 32); }

}  // namespace mrcnn
