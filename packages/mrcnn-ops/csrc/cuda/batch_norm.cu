#include "batch_norm_grid.h"
#include "device_grid.h"
#include "kernels.h"

namespace mrcnn {
namespace cuda {

template <class T>
int fold_batch_norm(const FoldShape& shape, const float* kernel, const BatchNorm& norm, const FoldOutputs<T>& outputs,
                    Stream stream) {
  DeviceGrid grid(stream);
  fold_on(grid, shape, kernel, norm, outputs);
  return grid.error();
}

template <class T>
int fold_batch_norm_backward(const FoldShape& shape, const FoldGradientInputs<T>& inputs, const BatchNorm& norm,
                             const FoldGradients& gradients, void* scratch, Stream stream) {
  DeviceGrid grid(stream);
  fold_backward_on(grid, shape, inputs, norm, gradients, scratch);
  return grid.error();
}

#define INSTANTIATE(T)                                                                                              \
  template int fold_batch_norm<T>(const FoldShape&, const float*, const BatchNorm&, const FoldOutputs<T>&, Stream); \
  template int fold_batch_norm_backward<T>(const FoldShape&, const FoldGradientInputs<T>&, const BatchNorm&,        \
                                           const FoldGradients&, void*, Stream);

INSTANTIATE(float)
INSTANTIATE(Half)
INSTANTIATE(BFloat16)

}  // namespace cuda
}  // namespace mrcnn
