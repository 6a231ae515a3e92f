#include <cstdlib>
#include <cstring>

#include "kernels.h"

namespace mrcnn {

namespace portable {
extern const Kernels kernels;
}
#ifdef MRCNN_HAVE_AVX2
namespace avx2 {
extern const Kernels kernels;
}
#endif

namespace {

const Kernels& best_kernels() {
#ifdef MRCNN_HAVE_AVX2
  const char* wanted = std::getenv("MRCNN_OPS_INSTRUCTION_SET");  // "portable" switches AVX2 off, for tests
  const bool portable_wanted = wanted != nullptr && std::strcmp(wanted, "portable") == 0;
  if (!portable_wanted && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c")) {
    return avx2::kernels;
  }
#endif
  return portable::kernels;
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = best_kernels();
  return chosen;
}

template <>
const RoiAlignKernels<float>& roi_align_kernels(const Kernels& kernels) {
  return kernels.roi_align_f32;
}

template <>
const RoiAlignKernels<Half>& roi_align_kernels(const Kernels& kernels) {
  return kernels.roi_align_f16;
}

template <>
const RoiAlignKernels<BFloat16>& roi_align_kernels(const Kernels& kernels) {
  return kernels.roi_align_bf16;
}

template <>
const FoldKernels<float>& fold_kernels(const Kernels& kernels) {
  return kernels.fold_f32;
}

template <>
const FoldKernels<Half>& fold_kernels(const Kernels& kernels) {
  return kernels.fold_f16;
}

template <>
const FoldKernels<BFloat16>& fold_kernels(const Kernels& kernels) {
  return kernels.fold_bf16;
}

template <>
const GroupNormKernels<float>& group_norm_kernels(const Kernels& kernels) {
  return kernels.group_norm_f32;
}

template <>
const GroupNormKernels<Half>& group_norm_kernels(const Kernels& kernels) {
  return kernels.group_norm_f16;
}

template <>
const GroupNormKernels<BFloat16>& group_norm_kernels(const Kernels& kernels) {
  return kernels.group_norm_bf16;
}

}  // namespace mrcnn
