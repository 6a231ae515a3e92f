#include "device_grid.h"
#include "kernels.h"
#include "proposals_grid.h"

namespace mrcnn {
namespace cuda {

int generate_proposals(const ProposalParams& params, const ProposalInputs& inputs, const ProposalOutputs& outputs,
                       void* scratch, Stream stream) {
  DeviceGrid grid(stream);
  generate_proposals_on(grid, params, inputs, outputs, scratch);
  return grid.error();
}

}  // namespace cuda
}  // namespace mrcnn
