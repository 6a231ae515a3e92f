#include "device_grid.h"
#include "group_norm_grid.h"
#include "kernels.h"

namespace mrcnn {
namespace cuda {

template <class T>
int group_norm(const GroupNormShape& shape, const T* x, const float* gamma, const float* beta, T* y,
               const GroupStatistics& statistics, void* scratch, Stream stream) {
  DeviceGrid grid(stream);
  group_norm_on(grid, shape, x, gamma, beta, y, statistics, scratch);
  return grid.error();
}

template <class T>
int group_norm_backward(const GroupNormShape& shape, const NormInputs<T>& inputs, T* dx, float* dgamma, float* dbeta,
                        void* scratch, Stream stream) {
  DeviceGrid grid(stream);
  group_norm_backward_on(grid, shape, inputs, dx, dgamma, dbeta, scratch);
  return grid.error();
}

#define INSTANTIATE(T)                                                                                                \
  template int group_norm<T>(const GroupNormShape&, const T*, const float*, const float*, T*, const GroupStatistics&, \
                             void*, Stream);                                                                          \
  template int group_norm_backward<T>(const GroupNormShape&, const NormInputs<T>&, T*, float*, float*, void*, Stream);

INSTANTIATE(float)
INSTANTIATE(Half)
INSTANTIATE(BFloat16)

}  // namespace cuda
}  // namespace mrcnn
