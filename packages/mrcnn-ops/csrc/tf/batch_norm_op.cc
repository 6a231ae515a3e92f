// MrcnnFoldBatchNorm and its gradient.
//
// kh, kw, D, C: the kernel of a convolution from D to C channels.
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "batch_norm.h"
#include "check.h"
#include "cpu/kernels.h"
#include "cuda_device.h"

namespace mrcnn {

namespace {

constexpr const char* kKernelShape = "[kh, kw, D, C]";

// Inputs [C] that follow the kernel.
absl::Status infer_channels(InferenceContext* c, int input, const char* name, DimensionHandle* channels) {
  ShapeHandle shape;
  TF_RETURN_IF_ERROR(infer_shape(c, input, name, "[C]", &shape));
  return infer_axis(c, name, shape, 0, channels, "kernel");
}

}  // namespace

REGISTER_OP("MrcnnFoldBatchNorm")
    .Input("kernel: float")
    .Input("gamma: float")
    .Input("beta: float")
    .Input("mean: float")
    .Input("variance: float")
    .Output("folded_kernel: T")
    .Output("folded_bias: float")
    .Attr("T: {float, half, bfloat16}")
    .Attr("epsilon: float")
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle kernel;
      TF_RETURN_IF_ERROR(infer_shape(c, 0, "kernel", kKernelShape, &kernel));
      DimensionHandle channels = c->Dim(kernel, 3);
      static const char* const kNames[] = {"gamma", "beta", "mean", "variance"};
      for (int i = 0; i < 4; ++i) TF_RETURN_IF_ERROR(infer_channels(c, 1 + i, kNames[i], &channels));
      c->set_output(0, kernel);
      c->set_output(1, c->Vector(channels));
      return absl::OkStatus();
    });

REGISTER_OP("MrcnnFoldBatchNormGrad")
    .Input("kernel: float")
    .Input("gamma: float")
    .Input("mean: float")
    .Input("variance: float")
    .Input("folded_kernel_gradient: T")
    .Input("folded_bias_gradient: float")
    .Output("kernel_gradient: float")
    .Output("gamma_gradient: float")
    .Output("beta_gradient: float")
    .Attr("T: {float, half, bfloat16}")
    .Attr("epsilon: float")
    .SetShapeFn([](InferenceContext* c) {
      c->set_output(0, c->input(0));
      c->set_output(1, c->input(1));
      c->set_output(2, c->input(1));
      return absl::OkStatus();
    });

namespace {

absl::Status check_channels(const Tensor& tensor, const char* name, int64_t channels) {
  TF_RETURN_IF_ERROR(check_shape(name, tensor.shape(), "[C]"));
  return check_axis(name, 0, tensor.dim_size(0), channels, "kernel");
}

absl::Status shape_of(const Tensor& kernel, float epsilon, FoldShape* shape) {
  TF_RETURN_IF_ERROR(check_shape("kernel", kernel.shape(), kKernelShape));
  *shape = {kernel.dim_size(0) * kernel.dim_size(1) * kernel.dim_size(2), kernel.dim_size(3), epsilon};
  return absl::OkStatus();
}

template <class T>
T* data(const Tensor& tensor) {
  return reinterpret_cast<T*>(const_cast<char*>(tensor.tensor_data().data()));
}

std::vector<float> scales(const FoldShape& shape, const BatchNorm& norm) {
  std::vector<float> result(shape.channels);
  for (int64_t c = 0; c < shape.channels; ++c) result[c] = fold_scale(norm, shape.epsilon, c);
  return result;
}

// `work(block, first row, number of rows)` for blocks of kFoldRows rows, shared among the threads.
template <class Work>
void for_each_row_block(OpKernelContext* context, const FoldShape& shape, const Work& work) {
  const int64_t cost = std::min(shape.rows, kFoldRows) * shape.channels;
  workers(context).workers->ParallelFor(fold_row_blocks(shape.rows), cost, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const int64_t first = block * kFoldRows;
      work(block, first, std::min(kFoldRows, shape.rows - first));
    }
  });
}

}  // namespace

template <class T>
class FoldBatchNormOp : public OpKernel {
 public:
  explicit FoldBatchNormOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("epsilon", &epsilon_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& kernel = context->input(0);
    FoldShape shape;
    OP_REQUIRES_OK(context, shape_of(kernel, epsilon_, &shape));
    static const char* const kNames[] = {"gamma", "beta", "mean", "variance"};
    for (int i = 0; i < 4; ++i) {
      OP_REQUIRES_OK(context, check_channels(context->input(1 + i), kNames[i], shape.channels));
    }
    const BatchNorm norm = {data<float>(context->input(1)), data<float>(context->input(2)),
                            data<float>(context->input(3)), data<float>(context->input(4))};
    Tensor *folded, *bias;
    OP_REQUIRES_OK(context, context->allocate_output(0, kernel.shape(), &folded));
    OP_REQUIRES_OK(context, context->allocate_output(1, {shape.channels}, &bias));
    run(context, shape, data<float>(kernel), norm, {data<T>(*folded), data<float>(*bias)});
  }

 private:
  virtual void run(OpKernelContext* context, const FoldShape& shape, const float* kernel, const BatchNorm& norm,
                   const FoldOutputs<T>& outputs) = 0;

  float epsilon_;
};

template <class T>
class CpuFoldBatchNormOp : public FoldBatchNormOp<T> {
  using FoldBatchNormOp<T>::FoldBatchNormOp;

  void run(OpKernelContext* context, const FoldShape& shape, const float* kernel, const BatchNorm& norm,
           const FoldOutputs<T>& outputs) override {
    const std::vector<float> scale = scales(shape, norm);
    for (int64_t c = 0; c < shape.channels; ++c) outputs.bias[c] = folded_bias(norm, shape.epsilon, c);
    for_each_row_block(context, shape, [&](int64_t, int64_t first, int64_t rows) {
      const int64_t offset = first * shape.channels;
      fold_kernels<T>(kernels()).forward(kernel + offset, scale.data(), rows, shape.channels, outputs.kernel + offset);
    });
  }
};

template <class T>
class FoldBatchNormGradOp : public OpKernel {
 public:
  explicit FoldBatchNormGradOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("epsilon", &epsilon_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& kernel = context->input(0);
    const Tensor& folded_gradient = context->input(4);
    FoldShape shape;
    OP_REQUIRES_OK(context, shape_of(kernel, epsilon_, &shape));
    for (const auto& [input, name] :
         {std::pair{1, "gamma"}, {2, "mean"}, {3, "variance"}, {5, "folded_bias_gradient"}}) {
      OP_REQUIRES_OK(context, check_channels(context->input(input), name, shape.channels));
    }
    OP_REQUIRES(context, folded_gradient.shape() == kernel.shape(),
                not_of_shape("folded_kernel_gradient", kernel.shape().DebugString() + ", as kernel has",
                             folded_gradient.shape().DebugString()));
    const BatchNorm norm = {data<float>(context->input(1)), nullptr, data<float>(context->input(2)),
                            data<float>(context->input(3))};
    Tensor* outputs[3];
    OP_REQUIRES_OK(context, context->allocate_output(0, kernel.shape(), &outputs[0]));
    for (int i = 1; i < 3; ++i) OP_REQUIRES_OK(context, context->allocate_output(i, {shape.channels}, &outputs[i]));
    run(context, shape, {data<float>(kernel), data<T>(folded_gradient), data<float>(context->input(5))}, norm,
        {data<float>(*outputs[0]), data<float>(*outputs[1]), data<float>(*outputs[2])});
  }

 private:
  virtual void run(OpKernelContext* context, const FoldShape& shape, const FoldGradientInputs<T>& inputs,
                   const BatchNorm& norm, const FoldGradients& gradients) = 0;

  float epsilon_;
};

template <class T>
class CpuFoldBatchNormGradOp : public FoldBatchNormGradOp<T> {
  using FoldBatchNormGradOp<T>::FoldBatchNormGradOp;

  void run(OpKernelContext* context, const FoldShape& shape, const FoldGradientInputs<T>& inputs, const BatchNorm& norm,
           const FoldGradients& gradients) override {
    const std::vector<float> scale = scales(shape, norm);
    const int64_t channels = shape.channels;
    std::vector<float> product_sums(fold_row_blocks(shape.rows) * channels);
    for_each_row_block(context, shape, [&](int64_t block, int64_t first, int64_t rows) {
      const int64_t offset = first * channels;
      fold_kernels<T>(kernels()).backward(inputs.kernel + offset, inputs.folded_gradient + offset, scale.data(), rows,
                                          channels, gradients.kernel + offset, product_sums.data() + block * channels);
    });
    for (int64_t c = 0; c < channels; ++c) {
      double sum = 0.0;
      for (int64_t block = 0; block < fold_row_blocks(shape.rows); ++block) sum += product_sums[block * channels + c];
      gradients.gamma[c] = gamma_gradient(norm, shape.epsilon, c, sum, inputs.bias_gradient[c]);
      gradients.beta[c] = inputs.bias_gradient[c];
    }
  }
};

#define REGISTER_FOLD(TENSORFLOW_TYPE, KERNEL_TYPE)                                                               \
  REGISTER_KERNEL_BUILDER(Name("MrcnnFoldBatchNorm").Device(DEVICE_CPU).TypeConstraint<TENSORFLOW_TYPE>("T"),     \
                          CpuFoldBatchNormOp<KERNEL_TYPE>);                                                       \
  REGISTER_KERNEL_BUILDER(Name("MrcnnFoldBatchNormGrad").Device(DEVICE_CPU).TypeConstraint<TENSORFLOW_TYPE>("T"), \
                          CpuFoldBatchNormGradOp<KERNEL_TYPE>);

REGISTER_FOLD(float, float)
REGISTER_FOLD(Eigen::half, Half)
REGISTER_FOLD(tensorflow::bfloat16, BFloat16)

#ifdef MRCNN_HAVE_CUDA
template <class T>
class CudaFoldBatchNormOp : public FoldBatchNormOp<T> {
  using FoldBatchNormOp<T>::FoldBatchNormOp;

  void run(OpKernelContext* context, const FoldShape& shape, const float* kernel, const BatchNorm& norm,
           const FoldOutputs<T>& outputs) override {
    OP_REQUIRES_OK(context, cuda_status(cuda::fold_batch_norm(shape, kernel, norm, outputs, stream_of(context))));
  }
};

template <class T>
class CudaFoldBatchNormGradOp : public FoldBatchNormGradOp<T> {
  using FoldBatchNormGradOp<T>::FoldBatchNormGradOp;

  void run(OpKernelContext* context, const FoldShape& shape, const FoldGradientInputs<T>& inputs, const BatchNorm& norm,
           const FoldGradients& gradients) override {
    Scratch scratch;
    OP_REQUIRES_OK(context, scratch.allocate(context, fold_backward_scratch_bytes(shape)));
    OP_REQUIRES_OK(context, cuda_status(cuda::fold_batch_norm_backward(shape, inputs, norm, gradients, scratch.data(),
                                                                       stream_of(context))));
  }
};

#define REGISTER_CUDA_FOLD(TENSORFLOW_TYPE, KERNEL_TYPE)                                                          \
  REGISTER_KERNEL_BUILDER(Name("MrcnnFoldBatchNorm").Device(DEVICE_GPU).TypeConstraint<TENSORFLOW_TYPE>("T"),     \
                          CudaFoldBatchNormOp<KERNEL_TYPE>);                                                      \
  REGISTER_KERNEL_BUILDER(Name("MrcnnFoldBatchNormGrad").Device(DEVICE_GPU).TypeConstraint<TENSORFLOW_TYPE>("T"), \
                          CudaFoldBatchNormGradOp<KERNEL_TYPE>);

REGISTER_CUDA_FOLD(float, float)
REGISTER_CUDA_FOLD(Eigen::half, Half)
REGISTER_CUDA_FOLD(tensorflow::bfloat16, BFloat16)
#endif

}  // namespace mrcnn
