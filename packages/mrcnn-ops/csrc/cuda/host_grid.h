// Runs the grid's bodies on the host, one thread after the other. For tests.
#pragma once

#include <cstring>
#include <vector>

#include "block.h"

namespace mrcnn {

class HostGrid {
 public:
  explicit HostGrid(ThreadOrder order = ThreadOrder::kAscending) : order_(order) {}

  // body(index) for every index below count.
  template <class Body>
  void run_elements(const Body& body, int64_t count) {
    for (int64_t i = 0; i < count; ++i) body(order_ == ThreadOrder::kAscending ? i : count - 1 - i);
  }

  // body(block, unit) for every unit below num_units, each with a block of Body::kThreads threads.
  template <class Body>
  void run_blocks(const Body& body, int64_t num_units) {
    const size_t bytes = body.shared_bytes();
    for (int64_t i = 0; i < num_units; ++i) {
      std::vector<uint64_t> shared(bytes / 8 + 1, 0xa5a5a5a5a5a5a5a5u);  // shared memory starts with arbitrary values
      HostBlock block(Body::kThreads, order_, reinterpret_cast<unsigned char*>(shared.data()));
      body(block, order_ == ThreadOrder::kAscending ? i : num_units - 1 - i);
    }
  }

  void fill(void* memory, int byte, size_t bytes) {
    if (bytes > 0) memset(memory, byte, bytes);
  }

 private:
  ThreadOrder order_;
};

}  // namespace mrcnn
