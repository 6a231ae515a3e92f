#include "detections_grid.h"
#include "device_grid.h"
#include "kernels.h"

namespace mrcnn {
namespace cuda {

int multiclass_nms(const DetectionParams& params, const DetectionInputs& inputs, const Detections& detections,
                   void* scratch, Stream stream) {
  DeviceGrid grid(stream);
  multiclass_nms_on(grid, params, inputs, detections, scratch);
  return grid.error();
}

}  // namespace cuda
}  // namespace mrcnn
