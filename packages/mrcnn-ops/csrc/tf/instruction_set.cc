// Which kernels this process uses, for mrcnn_ops.build_info().
#include "cpu/kernels.h"

extern "C" const char* mrcnn_ops_instruction_set() { return mrcnn::kernels().instruction_set; }
