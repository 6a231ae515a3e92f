#include "device_grid.h"
#include "kernels.h"
#include "roi_align_grid.h"

namespace mrcnn {
namespace cuda {

template <class T>
int roi_align_forward(const RoiAlignParams& params, const T* const* features, const Box* boxes, T* output,
                      Stream stream) {
  DeviceGrid grid(stream);
  roi_align_forward_on(grid, params, features, boxes, output);
  return grid.error();
}

template <class T>
int roi_align_backward(const RoiAlignParams& params, bool deterministic, const T* gradient, const Box* boxes,
                       T* const* feature_gradients, void* scratch, Stream stream) {
  DeviceGrid grid(stream);
  roi_align_backward_on(grid, params, deterministic, gradient, boxes, feature_gradients, scratch);
  return grid.error();
}

#define INSTANTIATE(T)                                                                               \
  template int roi_align_forward<T>(const RoiAlignParams&, const T* const*, const Box*, T*, Stream); \
  template int roi_align_backward<T>(const RoiAlignParams&, bool, const T*, const Box*, T* const*, void*, Stream);

INSTANTIATE(float)
INSTANTIATE(Half)
INSTANTIATE(BFloat16)

}  // namespace cuda
}  // namespace mrcnn
