// Large outputs come from the allocator as fresh memory that the kernel fills in page by page, at the first write: for
// the gradients of a pyramid that took half the time of the op (17 thousand faults of 4 KB at 800 x 1344). Where the
// system leaves the choice to the program (transparent_hugepage = madvise), pages of 2 MB are asked for.
#pragma once

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <cstdint>

#include "tensorflow/core/framework/tensor.h"

namespace mrcnn {

inline void prefer_huge_pages(const tensorflow::Tensor& tensor) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kHugePage = uintptr_t{2} << 20;
  const uintptr_t data = reinterpret_cast<uintptr_t>(tensor.tensor_data().data());
  const uintptr_t begin = (data + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t end = (data + tensor.tensor_data().size()) / kHugePage * kHugePage;
  // Advice only: where it is refused, all works as before.
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace mrcnn
