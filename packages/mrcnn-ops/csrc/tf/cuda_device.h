// What the ops need from TensorFlow to launch CUDA kernels: the stream, scratch memory, errors. Empty where the library
// is built without CUDA.
#pragma once

#ifdef MRCNN_HAVE_CUDA

#include "check.h"
#include "cuda/kernels.h"
#include "tensorflow/core/util/determinism.h"
#include "xla/stream_executor/stream.h"

namespace mrcnn {

using tensorflow::DEVICE_GPU;

// The stream in which TensorFlow runs this op; its context is current while the op runs.
inline cuda::Stream stream_of(OpKernelContext* context) {
  return static_cast<cuda::Stream>(context->op_device_context()->stream()->platform_specific_handle().stream);
}

inline absl::Status cuda_status(int error) {
  if (error == 0) return absl::OkStatus();
  return tensorflow::errors::Internal("CUDA kernel could not be launched: ", cuda::error_text(error), " (", error, ")");
}

inline absl::Status check_candidates(const char* name, int candidates) {
  if (candidates <= kMostNmsCandidates) return absl::OkStatus();
  return tensorflow::errors::InvalidArgument(name, " must be at most ", kMostNmsCandidates,
                                             " on a GPU, whose NMS needs memory for their pairs, got ", candidates);
}

// Device memory for the time of one op: freed when this goes out of scope, reused by TensorFlow in the order of the
// stream.
class Scratch {
 public:
  absl::Status allocate(OpKernelContext* context, size_t bytes) {
    return context->allocate_temp(tensorflow::DT_INT8, TensorShape({static_cast<int64_t>(bytes)}), &tensor_);
  }

  void* data() { return const_cast<char*>(tensor_.tensor_data().data()); }

 private:
  Tensor tensor_;
};

}  // namespace mrcnn

#endif  // MRCNN_HAVE_CUDA
