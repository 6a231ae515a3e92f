#include "device_grid.h"
#include "kernels.h"
#include "sgd_grid.h"

namespace mrcnn {
namespace cuda {

int gradient_norm(const SgdVariable* variables, int num_variables, const float* scale, float* norm, void* scratch,
                  Stream stream) {
  DeviceGrid grid(stream);
  gradient_norm_on(grid, variables, num_variables, scale, norm, scratch);
  return grid.error();
}

int sgd(const SgdVariable* variables, int num_variables, const SgdNumbers& numbers, Stream stream) {
  DeviceGrid grid(stream);
  sgd_on(grid, variables, num_variables, numbers);
  return grid.error();
}

}  // namespace cuda
}  // namespace mrcnn
