// MrcnnMultilevelRoiAlign and its gradient.
//
// N images, R boxes per image, L levels, C channels, P output size.
#include <cmath>
#include <memory>
#include <vector>

#include "check.h"
#include "cpu/kernels.h"
#include "cpu/roi_align_plan.h"
#include "cuda_device.h"
#include "huge_pages.h"

namespace mrcnn {

REGISTER_OP("MrcnnMultilevelRoiAlign")
    .Input("features: L * T")
    .Input("boxes: float")
    .Output("aligned_features: T")
    .Attr("T: {float, half, bfloat16}")
    .Attr("L: int >= 1")
    .Attr("strides: list(float)")
    .Attr("output_size: int >= 1")
    .Attr("sampling_ratio: int >= 1 = 2")
    .Attr("aligned: bool = true")
    .Attr("min_level: int = 2")
    .Attr("canonical_level: int = 4")
    .Attr("canonical_size: float = 224.0")
    .Attr("deterministic: bool = false")
    .SetShapeFn([](InferenceContext* c) {
      int num_levels, output_size;
      TF_RETURN_IF_ERROR(c->GetAttr("L", &num_levels));
      TF_RETURN_IF_ERROR(c->GetAttr("output_size", &output_size));
      ShapeHandle boxes;
      TF_RETURN_IF_ERROR(infer_shape(c, num_levels, "boxes", "[N, R, 4]", &boxes));
      DimensionHandle images = c->Dim(boxes, 0), channels = c->UnknownDim();
      for (int level = 0; level < num_levels; ++level) {
        const std::string name = "features[" + std::to_string(level) + "]";
        ShapeHandle map;
        TF_RETURN_IF_ERROR(infer_shape(c, level, name, "[N, H, W, C]", &map));
        TF_RETURN_IF_ERROR(infer_axis(c, name, map, 0, &images, "boxes"));
        TF_RETURN_IF_ERROR(infer_axis(c, name, map, 3, &channels, "features[0]"));
      }
      c->set_output(0, c->MakeShape({images, c->Dim(boxes, 1), output_size, output_size, channels}));
      return absl::OkStatus();
    });

// The gradient does not depend on the values of the feature maps, so only their shapes are passed: TensorFlow may free
// the maps.
REGISTER_OP("MrcnnMultilevelRoiAlignGrad")
    .Input("gradient: T")
    .Input("boxes: float")
    .Input("feature_shapes: L * int32")
    .Output("feature_gradients: L * T")
    .Attr("T: {float, half, bfloat16}")
    .Attr("L: int >= 1")
    .Attr("strides: list(float)")
    .Attr("output_size: int >= 1")
    .Attr("sampling_ratio: int >= 1 = 2")
    .Attr("aligned: bool = true")
    .Attr("min_level: int = 2")
    .Attr("canonical_level: int = 4")
    .Attr("canonical_size: float = 224.0")
    .Attr("deterministic: bool = false")
    .SetShapeFn([](InferenceContext* c) {
      for (int level = 0; level < c->num_outputs(); ++level) {
        ShapeHandle map;
        TF_RETURN_IF_ERROR(c->MakeShapeFromShapeTensor(2 + level, &map));
        TF_RETURN_IF_ERROR(c->WithRank(map, 4, &map));
        c->set_output(level, map);
      }
      return absl::OkStatus();
    });

namespace {

// The attributes both ops share, and the checks that need no input.
absl::Status read_attributes(OpKernelConstruction* context, RoiAlignParams* params) {
  std::vector<float> strides;
  TF_RETURN_IF_ERROR(context->GetAttr("L", &params->num_levels));
  TF_RETURN_IF_ERROR(context->GetAttr("strides", &strides));
  TF_RETURN_IF_ERROR(context->GetAttr("output_size", &params->output_size));
  TF_RETURN_IF_ERROR(context->GetAttr("sampling_ratio", &params->sampling_ratio));
  TF_RETURN_IF_ERROR(context->GetAttr("aligned", &params->aligned));
  TF_RETURN_IF_ERROR(context->GetAttr("min_level", &params->min_level));
  TF_RETURN_IF_ERROR(context->GetAttr("canonical_level", &params->canonical_level));
  TF_RETURN_IF_ERROR(context->GetAttr("canonical_size", &params->canonical_size));
  if (params->num_levels > kMaxLevels) {
    return InvalidArgument("features must be at most ", kMaxLevels, " maps, got ", params->num_levels);
  }
  if (static_cast<int>(strides.size()) != params->num_levels) {
    return InvalidArgument("strides must be one per feature map (", params->num_levels, "), got ", strides.size());
  }
  for (size_t level = 0; level < strides.size(); ++level) {
    if (!(strides[level] > 0.0f) || !is_finite(strides[level])) {
      return InvalidArgument("strides must be positive, got ", strides[level]);
    }
    params->strides[level] = strides[level];
  }
  if (params->output_size > kMaxOutputSize) {
    return InvalidArgument("output_size must be at most ", kMaxOutputSize, ", got ", params->output_size);
  }
  if (params->sampling_ratio > kMaxSamplingRatio) {
    return InvalidArgument("sampling_ratio must be at most ", kMaxSamplingRatio, ", got ", params->sampling_ratio);
  }
  if (!(params->canonical_size > 0.0f) || !is_finite(params->canonical_size)) {
    return InvalidArgument("canonical_size must be positive, got ", params->canonical_size);
  }
  return absl::OkStatus();
}

// Checks one map's shape against the first one's images and channels, and notes its size.
absl::Status add_level(const TensorShape& shape, int level, RoiAlignParams* params) {
  const std::string name = "features[" + std::to_string(level) + "]";
  TF_RETURN_IF_ERROR(check_shape(name, shape, "[N, H, W, C]"));
  for (int axis = 0; axis < 4; ++axis) {
    if (shape.dim_size(axis) > (1 << 24)) {  // beyond that a pixel's index is not exact in float32
      return InvalidArgument(name, " must be at most 2^24 on every axis, got ", shape.DebugString());
    }
  }
  if (level == 0) params->channels = static_cast<int>(shape.dim_size(3));
  TF_RETURN_IF_ERROR(check_axis(name, 0, shape.dim_size(0), params->num_images, "boxes"));
  TF_RETURN_IF_ERROR(check_axis(name, 3, shape.dim_size(3), params->channels, "features[0]"));
  params->heights[level] = static_cast<int>(shape.dim_size(1));
  params->widths[level] = static_cast<int>(shape.dim_size(2));
  return absl::OkStatus();
}

absl::Status add_boxes(const Tensor& boxes, RoiAlignParams* params) {
  TF_RETURN_IF_ERROR(check_shape("boxes", boxes.shape(), "[N, R, 4]"));
  TF_RETURN_IF_ERROR(check_size("boxes", boxes));
  params->num_images = static_cast<int>(boxes.dim_size(0));
  params->num_boxes = static_cast<int>(boxes.dim_size(1));
  return absl::OkStatus();
}

const Box* box_pointer(const Tensor& boxes) { return reinterpret_cast<const Box*>(boxes.flat<float>().data()); }

template <class T>
T* data(const Tensor& tensor) {
  return static_cast<T*>(const_cast<void*>(static_cast<const void*>(tensor.tensor_data().data())));
}

// Cycles for one box: P * P bins, about nine taps each, eight channels at a time.
int64_t cost_of_box(const RoiAlignParams& params) {
  return 200 + static_cast<int64_t>(params.output_size) * params.output_size * 9 * (params.channels / 4 + 4);
}

}  // namespace

// What the op does on every device: attributes, checks, output. `run` then fills an output that is not empty.
template <class T>
class MultilevelRoiAlignOp : public OpKernel {
 public:
  explicit MultilevelRoiAlignOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, read_attributes(context, &attributes_));
  }

  void Compute(OpKernelContext* context) override {
    RoiAlignParams params = attributes_;
    const Tensor& boxes = context->input(params.num_levels);
    OP_REQUIRES_OK(context, add_boxes(boxes, &params));
    const T* features[kMaxLevels];
    for (int level = 0; level < params.num_levels; ++level) {
      OP_REQUIRES_OK(context, add_level(context->input(level).shape(), level, &params));
      features[level] = data<const T>(context->input(level));
    }
    Tensor* output;
    const int size = params.output_size;
    OP_REQUIRES_OK(context, context->allocate_output(
                                0, {params.num_images, params.num_boxes, size, size, params.channels}, &output));
    if (output->NumElements() == 0) return;
    run(context, params, features, box_pointer(boxes), output);
  }

 private:
  virtual void run(OpKernelContext* context, const RoiAlignParams& params, const T* const* features, const Box* boxes,
                   Tensor* output) = 0;

  RoiAlignParams attributes_;
};

template <class T>
class CpuMultilevelRoiAlignOp : public MultilevelRoiAlignOp<T> {
  using MultilevelRoiAlignOp<T>::MultilevelRoiAlignOp;

  void run(OpKernelContext* context, const RoiAlignParams& params, const T* const* features, const Box* boxes,
           Tensor* output) override {
    prefer_huge_pages(*output);
    T* out = data<T>(*output);
    const auto& kernel = roi_align_kernels<T>(kernels());
    const int64_t total = static_cast<int64_t>(params.num_images) * params.num_boxes;
    workers(context).workers->ParallelFor(total, cost_of_box(params), [&](int64_t begin, int64_t end) {
      std::unique_ptr<char[]> scratch(new char[roi_align_scratch_bytes(params, 0)]);
      kernel.forward(params, features, boxes, begin, end, out, scratch.get());
    });
  }
};

// As above; the outputs of `run` are the levels' gradients, some of which may be empty.
template <class T>
class MultilevelRoiAlignGradOp : public OpKernel {
 public:
  explicit MultilevelRoiAlignGradOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, read_attributes(context, &attributes_));
  }

  void Compute(OpKernelContext* context) override {
    RoiAlignParams params = attributes_;
    const Tensor& gradient = context->input(0);
    const Tensor& boxes = context->input(1);
    OP_REQUIRES_OK(context, add_boxes(boxes, &params));
    TensorShape shapes[kMaxLevels];
    for (int level = 0; level < params.num_levels; ++level) {
      const Tensor& sizes = context->input(2 + level);
      OP_REQUIRES_OK(context, check_shape("feature_shapes", sizes.shape(), "[4]"));
      OP_REQUIRES_OK(context, tensorflow::TensorShapeUtils::MakeShape(sizes.vec<int32_t>(), &shapes[level]));
      OP_REQUIRES_OK(context, add_level(shapes[level], level, &params));
    }
    const int size = params.output_size;
    const TensorShape expected({params.num_images, params.num_boxes, size, size, params.channels});
    OP_REQUIRES(
        context, gradient.shape() == expected,
        InvalidArgument("gradient must have shape ", expected.DebugString(), ", got ", gradient.shape().DebugString()));
    Tensor* outputs[kMaxLevels];
    for (int level = 0; level < params.num_levels; ++level) {
      OP_REQUIRES_OK(context, context->allocate_output(level, shapes[level], &outputs[level]));
    }
    if (params.num_images == 0 || params.channels == 0) return;
    run(context, params, data<const T>(gradient), box_pointer(boxes), outputs);
  }

 private:
  virtual void run(OpKernelContext* context, const RoiAlignParams& params, const T* gradient, const Box* boxes,
                   Tensor* const* outputs) = 0;

  RoiAlignParams attributes_;
};

template <class T>
class CpuMultilevelRoiAlignGradOp : public MultilevelRoiAlignGradOp<T> {
  using MultilevelRoiAlignGradOp<T>::MultilevelRoiAlignGradOp;

  void run(OpKernelContext* context, const RoiAlignParams& params, const T* gradient, const Box* boxes,
           Tensor* const* outputs) override {
    T* gradients[kMaxLevels];
    for (int level = 0; level < params.num_levels; ++level) {
      prefer_huge_pages(*outputs[level]);
      gradients[level] = data<T>(*outputs[level]);
    }
    const int num_boxes = params.num_images * params.num_boxes;
    std::vector<RoiFootprint> footprints(num_boxes);
    std::vector<int> order(num_boxes), level_begin(params.num_images * (params.num_levels + 1));
    plan_roi_align_backward(params, boxes, footprints.data(), order.data(), level_begin.data());

    const int edge = roi_align_tile_edge(params.channels);
    const int64_t total = count_roi_align_tiles(params, edge);
    const int64_t cost =
        cost_of_box(params) * num_boxes / std::max<int64_t>(total, 1) + edge * edge * params.channels / 2;
    const auto& kernel = roi_align_kernels<T>(kernels());
    workers(context).workers->ParallelFor(total, cost, [&](int64_t begin, int64_t end) {
      std::unique_ptr<char[]> scratch(new char[roi_align_scratch_bytes(params, edge)]);
      for (int64_t i = begin; i < end; ++i) {
        kernel.backward(params, gradient, boxes, footprints.data(), order.data(), level_begin.data(),
                        roi_align_tile(params, edge, i), gradients, scratch.get());
      }
    });
  }
};

#define REGISTER_ROI_ALIGN(TENSORFLOW_TYPE, KERNEL_TYPE)                                                               \
  REGISTER_KERNEL_BUILDER(Name("MrcnnMultilevelRoiAlign").Device(DEVICE_CPU).TypeConstraint<TENSORFLOW_TYPE>("T"),     \
                          CpuMultilevelRoiAlignOp<KERNEL_TYPE>);                                                       \
  REGISTER_KERNEL_BUILDER(Name("MrcnnMultilevelRoiAlignGrad").Device(DEVICE_CPU).TypeConstraint<TENSORFLOW_TYPE>("T"), \
                          CpuMultilevelRoiAlignGradOp<KERNEL_TYPE>);

REGISTER_ROI_ALIGN(float, float)
REGISTER_ROI_ALIGN(Eigen::half, Half)
REGISTER_ROI_ALIGN(tensorflow::bfloat16, BFloat16)

#ifdef MRCNN_HAVE_CUDA
template <class T>
class CudaMultilevelRoiAlignOp : public MultilevelRoiAlignOp<T> {
  using MultilevelRoiAlignOp<T>::MultilevelRoiAlignOp;

  void run(OpKernelContext* context, const RoiAlignParams& params, const T* const* features, const Box* boxes,
           Tensor* output) override {
    OP_REQUIRES_OK(context,
                   cuda_status(cuda::roi_align_forward(params, features, boxes, data<T>(*output), stream_of(context))));
  }
};

template <class T>
class CudaMultilevelRoiAlignGradOp : public MultilevelRoiAlignGradOp<T> {
 public:
  explicit CudaMultilevelRoiAlignGradOp(OpKernelConstruction* context) : MultilevelRoiAlignGradOp<T>(context) {
    OP_REQUIRES_OK(context, context->GetAttr("deterministic", &deterministic_));
  }

 private:
  void run(OpKernelContext* context, const RoiAlignParams& params, const T* gradient, const Box* boxes,
           Tensor* const* outputs) override {
    T* gradients[kMaxLevels];
    for (int level = 0; level < params.num_levels; ++level) gradients[level] = data<T>(*outputs[level]);
    // tf.config.experimental.enable_op_determinism() asks for it as well.
    const bool deterministic = deterministic_ || tensorflow::OpDeterminismRequired();
    Scratch scratch;
    OP_REQUIRES_OK(context, scratch.allocate(context, roi_align_backward_scratch_bytes<T>(params, deterministic)));
    OP_REQUIRES_OK(context, cuda_status(cuda::roi_align_backward(params, deterministic, gradient, boxes, gradients,
                                                                 scratch.data(), stream_of(context))));
  }

  bool deterministic_;
};

// The shapes of the maps decide what is launched, so they must be in host memory.
#define REGISTER_CUDA_ROI_ALIGN(TENSORFLOW_TYPE, KERNEL_TYPE)                                                      \
  REGISTER_KERNEL_BUILDER(Name("MrcnnMultilevelRoiAlign").Device(DEVICE_GPU).TypeConstraint<TENSORFLOW_TYPE>("T"), \
                          CudaMultilevelRoiAlignOp<KERNEL_TYPE>);                                                  \
  REGISTER_KERNEL_BUILDER(Name("MrcnnMultilevelRoiAlignGrad")                                                      \
                              .Device(DEVICE_GPU)                                                                  \
                              .HostMemory("feature_shapes")                                                        \
                              .TypeConstraint<TENSORFLOW_TYPE>("T"),                                               \
                          CudaMultilevelRoiAlignGradOp<KERNEL_TYPE>);

REGISTER_CUDA_ROI_ALIGN(float, float)
REGISTER_CUDA_ROI_ALIGN(Eigen::half, Half)
REGISTER_CUDA_ROI_ALIGN(tensorflow::bfloat16, BFloat16)
#endif

}  // namespace mrcnn
