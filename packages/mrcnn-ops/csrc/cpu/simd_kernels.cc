// Compiled once per instruction set (CMakeLists.txt), with MRCNN_ISA as its name. Everything here has internal linkage,
// and no template of the standard library is instantiated: otherwise the linker could put AVX2 code into the portable
// build.
#include "batch_norm_kernels.h"
#include "group_norm_kernels.h"
#include "matching_kernels.h"
#include "nms_kernels.h"
#include "roi_align_kernels.h"
#include "sgd_kernels.h"

#define MRCNN_STRING_(x) #x
#define MRCNN_STRING(x) MRCNN_STRING_(x)

namespace mrcnn {
namespace MRCNN_ISA {

extern const Kernels kernels;
const Kernels kernels = {
    MRCNN_STRING(MRCNN_ISA),
    {roi_align_forward<float>, roi_align_backward<float>},
    {roi_align_forward<Half>, roi_align_backward<Half>},
    {roi_align_forward<BFloat16>, roi_align_backward<BFloat16>},
    {norm_sums<float>, norm_apply<float>, norm_backward_sums<float>, norm_backward_apply<float>},
    {norm_sums<Half>, norm_apply<Half>, norm_backward_sums<Half>, norm_backward_apply<Half>},
    {norm_sums<BFloat16>, norm_apply<BFloat16>, norm_backward_sums<BFloat16>, norm_backward_apply<BFloat16>},
    {fold_rows<float>, fold_rows_backward<float>},
    {fold_rows<Half>, fold_rows_backward<Half>},
    {fold_rows<BFloat16>, fold_rows_backward<BFloat16>},
    nms,
    match,
    mark_best,
    sum_of_squares,
    sgd,
};

}  // namespace MRCNN_ISA
}  // namespace mrcnn
