#include "device_grid.h"
#include "kernels.h"
#include "matching_grid.h"

namespace mrcnn {
namespace cuda {

const char* error_text(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

int match_boxes(const MatchParams& params, const MatchInputs& inputs, const MatchOutputs& outputs, void* scratch,
                Stream stream) {
  DeviceGrid grid(stream);
  match_boxes_on(grid, params, inputs, outputs, scratch);
  return grid.error();
}

}  // namespace cuda
}  // namespace mrcnn
