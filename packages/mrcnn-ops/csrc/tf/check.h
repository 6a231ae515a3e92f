// What every op file needs from TensorFlow, and input checks: one line with the name of the input, what is expected
// and what was given.
#pragma once

#include <string>
#include <vector>

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

// Shapes are written as "[N, A, 4]": letters match anything and say what the axis is, numbers match themselves. Here,
// the numbers, and -1 for letters.
inline std::vector<int64_t> sizes_of(const std::string& shape) {
  std::vector<int64_t> sizes;
  for (size_t at = 1; at < shape.size() - 1; at = shape.find_first_of(",]", at) + 2) {
    sizes.push_back(shape[at] >= '0' && shape[at] <= '9' ? std::stoll(shape.substr(at)) : -1);
  }
  return sizes;
}

inline absl::Status not_of_shape(const std::string& name, const std::string& expected, const std::string& shape) {
  return InvalidArgument(name, " must have shape ", expected, ", got ", shape);
}

inline absl::Status check_shape(const std::string& name, const TensorShape& shape, const std::string& expected) {
  const std::vector<int64_t> sizes = sizes_of(expected);
  bool matches = shape.dims() == static_cast<int>(sizes.size());
  for (int axis = 0; matches && axis < shape.dims(); ++axis) {
    matches = sizes[axis] < 0 || sizes[axis] == shape.dim_size(axis);
  }
  return matches ? absl::OkStatus() : not_of_shape(name, expected, shape.DebugString());
}

inline absl::Status check_axis(const std::string& name, int axis, int64_t size, int64_t expected, const char* of) {
  if (size == expected) return absl::OkStatus();
  return InvalidArgument(name, " must have ", expected, " on axis ", axis, ", as ", of, " has, got ", size);
}

// The same two checks for shape functions, with the same messages, as far as shapes are known when a graph is traced.
// `shape` receives what is known of the input: at least its rank.
inline absl::Status infer_shape(InferenceContext* context, int input, const std::string& name,
                                const std::string& expected, ShapeHandle* shape) {
  const std::vector<int64_t> sizes = sizes_of(expected);
  const int rank = static_cast<int>(sizes.size());
  bool matches = !context->RankKnown(context->input(input)) || context->Rank(context->input(input)) == rank;
  if (matches) TF_RETURN_IF_ERROR(context->WithRank(context->input(input), rank, shape));
  for (int axis = 0; matches && axis < rank; ++axis) {
    const DimensionHandle size = context->Dim(*shape, axis);
    matches = sizes[axis] < 0 || !context->ValueKnown(size) || context->Value(size) == sizes[axis];
  }
  return matches ? absl::OkStatus() : not_of_shape(name, expected, context->DebugString(context->input(input)));
}

// `expected` is the size of that axis as other inputs have it; it is filled in where only this input has a size.
inline absl::Status infer_axis(InferenceContext* context, const std::string& name, const ShapeHandle& shape, int axis,
                               DimensionHandle* expected, const char* of) {
  const DimensionHandle size = context->Dim(shape, axis);
  if (context->ValueKnown(size) && context->ValueKnown(*expected)) {
    TF_RETURN_IF_ERROR(check_axis(name, axis, context->Value(size), context->Value(*expected), of));
  }
  return context->Merge(*expected, size, expected);
}

// Kernels count boxes, anchors and pixels in int; tensors beyond that are refused.
inline absl::Status check_size(const char* name, const Tensor& tensor) {
  if (tensor.NumElements() <= (int64_t{1} << 31) - 1) return absl::OkStatus();
  return InvalidArgument(name, " has ", tensor.NumElements(), " elements, more than this op counts (2^31 - 1)");
}

inline const tensorflow::DeviceBase::CpuWorkerThreads& workers(OpKernelContext* context) {
  return *context->device()->tensorflow_cpu_worker_threads();
}

}  // namespace mrcnn
