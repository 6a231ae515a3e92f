// What every op file needs of TensorFlow, and input checks: one line that names the input, what is expected, what came.
#pragma once

#include <string>

#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/core/framework/tensor.h"

namespace mrcnn {

using tensorflow::DEVICE_CPU;
using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::tstring;
using tensorflow::errors::InvalidArgument;
using tensorflow::shape_inference::DimensionHandle;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

// Shapes are written as "[N, A, 4]": letters match anything and say what the axis is, numbers match themselves.
inline absl::Status check_shape(const char* name, const TensorShape& shape, const std::string& expected) {
  int rank = 0;
  bool matches = true;
  size_t at = 1;
  while (at < expected.size() - 1) {
    size_t stop = expected.find_first_of(",]", at);
    const std::string axis = expected.substr(at, stop - at);
    if (rank < shape.dims() && axis[0] >= '0' && axis[0] <= '9') matches &= shape.dim_size(rank) == std::stoll(axis);
    ++rank;
    at = stop + 2;
  }
  if (matches && rank == shape.dims()) return absl::OkStatus();
  return InvalidArgument(name, " must have shape ", expected, ", got ", shape.DebugString());
}

inline absl::Status check_axis(const char* name, int axis, int64_t size, int64_t expected, const char* of) {
  if (size == expected) return absl::OkStatus();
  return InvalidArgument(name, " must have ", expected, " on axis ", axis, ", as ", of,
                                             " has, got ", size);
}

// Kernels count boxes, anchors and pixels in int; tensors beyond that are refused.
inline absl::Status check_size(const char* name, const Tensor& tensor) {
  if (tensor.NumElements() <= (int64_t{1} << 31) - 1) return absl::OkStatus();
  return InvalidArgument(name, " has ", tensor.NumElements(),
                                             " elements, more than this op counts (2^31 - 1)");
}

inline const tensorflow::DeviceBase::CpuWorkerThreads& workers(OpKernelContext* context) {
  return *context->device()->tensorflow_cpu_worker_threads();
}

}  // namespace mrcnn
