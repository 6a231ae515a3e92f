// MrcnnGroupNorm and its gradient.
//
// N images, H x W positions, C channels in G groups.
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "cpu/kernels.h"
#include "cuda_device.h"
#include "group_norm.h"

namespace mrcnn {

REGISTER_OP("MrcnnGroupNorm")
    .Input("x: T")
    .Input("gamma: float")
    .Input("beta: float")
    .Output("y: T")
    .Output("mean: float")
    .Output("inverse_deviation: float")
    .Attr("T: {float, half, bfloat16}")
    .Attr("groups: int >= 1")
    .Attr("epsilon: float")
    .Attr("relu: bool")
    .SetShapeFn([](InferenceContext* c) {
      int groups;
      TF_RETURN_IF_ERROR(c->GetAttr("groups", &groups));
      ShapeHandle x, gamma, beta;
      TF_RETURN_IF_ERROR(infer_shape(c, 0, "x", "[N, H, W, C]", &x));
      TF_RETURN_IF_ERROR(infer_shape(c, 1, "gamma", "[C]", &gamma));
      TF_RETURN_IF_ERROR(infer_shape(c, 2, "beta", "[C]", &beta));
      DimensionHandle channels = c->Dim(x, 3);
      TF_RETURN_IF_ERROR(infer_axis(c, "gamma", gamma, 0, &channels, "x"));
      TF_RETURN_IF_ERROR(infer_axis(c, "beta", beta, 0, &channels, "x"));
      c->set_output(0, x);
      for (int i = 1; i < 3; ++i) c->set_output(i, c->Matrix(c->Dim(x, 0), groups));
      return absl::OkStatus();
    });

REGISTER_OP("MrcnnGroupNormGrad")
    .Input("x: T")
    .Input("dy: T")
    .Input("gamma: float")
    .Input("beta: float")
    .Input("mean: float")
    .Input("inverse_deviation: float")
    .Output("dx: T")
    .Output("dgamma: float")
    .Output("dbeta: float")
    .Attr("T: {float, half, bfloat16}")
    .Attr("groups: int >= 1")
    .Attr("epsilon: float")
    .Attr("relu: bool")
    .SetShapeFn([](InferenceContext* c) {
      c->set_output(0, c->input(0));
      c->set_output(1, c->input(2));
      c->set_output(2, c->input(2));
      return absl::OkStatus();
    });

namespace {

template <class T>
T* data(const Tensor& tensor) {
  return reinterpret_cast<T*>(const_cast<char*>(tensor.tensor_data().data()));
}

// What both ops do on every device: attributes and checks.
class OpOfGroups : public OpKernel {
 public:
  explicit OpOfGroups(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("groups", &groups_));
    OP_REQUIRES_OK(context, context->GetAttr("epsilon", &epsilon_));
    OP_REQUIRES_OK(context, context->GetAttr("relu", &relu_));
  }

 protected:
  absl::Status shape_of(const Tensor& x, GroupNormShape* shape) const {
    TF_RETURN_IF_ERROR(check_shape("x", x.shape(), "[N, H, W, C]"));
    *shape = {x.dim_size(0), x.dim_size(1) * x.dim_size(2), x.dim_size(3), groups_, epsilon_, relu_};
    if (shape->channels % groups_ == 0) return absl::OkStatus();
    return InvalidArgument("groups must divide the channels of x (", shape->channels, "), got ", groups_);
  }

  absl::Status check_channels(const Tensor& tensor, const char* name, const GroupNormShape& shape) const {
    TF_RETURN_IF_ERROR(check_shape(name, tensor.shape(), "[C]"));
    return check_axis(name, 0, tensor.dim_size(0), shape.channels, "x");
  }

  absl::Status check_statistics(const Tensor& tensor, const char* name, const GroupNormShape& shape) const {
    if (tensor.shape() == TensorShape({shape.images, shape.groups})) return absl::OkStatus();
    return not_of_shape(name, "[N, G]", tensor.shape().DebugString());
  }

 private:
  int groups_;
  float epsilon_;
  bool relu_;
};

// `work(image, chunk, first position of all, number of positions)`, shared among the threads.
template <class Work>
void for_each_chunk(OpKernelContext* context, const GroupNormShape& shape, int64_t cycles, const Work& work) {
  const int64_t chunks = norm_chunks(shape.positions);
  const int64_t cost = cycles * std::min(shape.positions, kNormPositions) * shape.channels;
  workers(context).workers->ParallelFor(shape.images * chunks, cost, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t image = i / chunks, first = i % chunks * kNormPositions;
      work(image, i, image * shape.positions + first, std::min(kNormPositions, shape.positions - first));
    }
  });
}

// Scale and shift of every image and channel, [N, C].
struct Affines {
  std::vector<float> scale, shift;

  template <class T>
  Affines(const GroupNormShape& shape, const NormInputs<T>& inputs)
      : scale(shape.images * shape.channels), shift(scale.size()) {
    for (int64_t i = 0; i < shape.images * shape.channels; ++i) {
      const Affine affine = affine_of(shape, inputs, i / shape.channels, i % shape.channels);
      scale[i] = affine.scale;
      shift[i] = affine.shift;
    }
  }
};

// Two sums of every image and channel, [N, C], from those of its chunks, [N, chunks, C].
std::vector<double> over_chunks(const GroupNormShape& shape, const std::vector<float>& sums) {
  const int64_t chunks = norm_chunks(shape.positions);
  std::vector<double> result(shape.images * shape.channels);
  for (int64_t i = 0; i < shape.images * chunks; ++i) {
    for (int64_t c = 0; c < shape.channels; ++c)
      result[i / chunks * shape.channels + c] += sums[i * shape.channels + c];
  }
  return result;
}

}  // namespace

template <class T>
class GroupNormOp : public OpOfGroups {
 public:
  using OpOfGroups::OpOfGroups;

  void Compute(OpKernelContext* context) override {
    const Tensor &x = context->input(0), &gamma = context->input(1), &beta = context->input(2);
    GroupNormShape shape;
    OP_REQUIRES_OK(context, shape_of(x, &shape));
    OP_REQUIRES_OK(context, check_channels(gamma, "gamma", shape));
    OP_REQUIRES_OK(context, check_channels(beta, "beta", shape));
    Tensor *y, *mean, *inverse_deviation;
    OP_REQUIRES_OK(context, context->allocate_output(0, x.shape(), &y));
    OP_REQUIRES_OK(context, context->allocate_output(1, {shape.images, shape.groups}, &mean));
    OP_REQUIRES_OK(context, context->allocate_output(2, {shape.images, shape.groups}, &inverse_deviation));
    run(context, shape, data<T>(x), data<float>(gamma), data<float>(beta), data<T>(*y),
        {data<float>(*mean), data<float>(*inverse_deviation)});
  }

 private:
  virtual void run(OpKernelContext* context, const GroupNormShape& shape, const T* x, const float* gamma,
                   const float* beta, T* y, const GroupStatistics& statistics) = 0;
};

template <class T>
class CpuGroupNormOp : public GroupNormOp<T> {
  using GroupNormOp<T>::GroupNormOp;

  void run(OpKernelContext* context, const GroupNormShape& shape, const T* x, const float* gamma, const float* beta,
           T* y, const GroupStatistics& statistics) override {
    const int64_t channels = shape.channels, width = shape.channels_of_group();
    const GroupNormKernels<T>& kernel = group_norm_kernels<T>(kernels());
    std::vector<float> sums(shape.images * norm_chunks(shape.positions) * channels), squares(sums.size());
    for_each_chunk(context, shape, 1, [&](int64_t, int64_t chunk, int64_t first, int64_t positions) {
      kernel.sums(x + first * channels, positions, channels, sums.data() + chunk * channels,
                  squares.data() + chunk * channels);
    });
    const std::vector<double> sum = over_chunks(shape, sums), square = over_chunks(shape, squares);
    for (int64_t group = 0; group < shape.images * shape.groups; ++group) {
      double mean = 0.0, mean_square = 0.0;
      for (int64_t i = group * width; i < (group + 1) * width; ++i) mean += sum[i], mean_square += square[i];
      mean /= shape.count(), mean_square /= shape.count();
      statistics.mean[group] = static_cast<float>(mean);
      statistics.inverse_deviation[group] = inverse_deviation_of(mean, mean_square, shape.epsilon);
    }
    const Affines affines(shape, NormInputs<T>{x, nullptr, gamma, beta, statistics.mean, statistics.inverse_deviation});
    for_each_chunk(context, shape, 1, [&](int64_t image, int64_t, int64_t first, int64_t positions) {
      kernel.apply(x + first * channels, affines.scale.data() + image * channels,
                   affines.shift.data() + image * channels, shape.relu, positions, channels, y + first * channels);
    });
  }
};

template <class T>
class GroupNormGradOp : public OpOfGroups {
 public:
  using OpOfGroups::OpOfGroups;

  void Compute(OpKernelContext* context) override {
    const Tensor &x = context->input(0), &dy = context->input(1);
    GroupNormShape shape;
    OP_REQUIRES_OK(context, shape_of(x, &shape));
    OP_REQUIRES(context, dy.shape() == x.shape(),
                not_of_shape("dy", x.shape().DebugString() + ", as x has", dy.shape().DebugString()));
    OP_REQUIRES_OK(context, check_channels(context->input(2), "gamma", shape));
    OP_REQUIRES_OK(context, check_channels(context->input(3), "beta", shape));
    OP_REQUIRES_OK(context, check_statistics(context->input(4), "mean", shape));
    OP_REQUIRES_OK(context, check_statistics(context->input(5), "inverse_deviation", shape));
    Tensor *dx, *dgamma, *dbeta;
    OP_REQUIRES_OK(context, context->allocate_output(0, x.shape(), &dx));
    OP_REQUIRES_OK(context, context->allocate_output(1, {shape.channels}, &dgamma));
    OP_REQUIRES_OK(context, context->allocate_output(2, {shape.channels}, &dbeta));
    const auto numbers = [&](int input) { return data<float>(context->input(input)); };
    run(context, shape, {data<T>(x), data<T>(dy), numbers(2), numbers(3), numbers(4), numbers(5)}, data<T>(*dx),
        data<float>(*dgamma), data<float>(*dbeta));
  }

 private:
  virtual void run(OpKernelContext* context, const GroupNormShape& shape, const NormInputs<T>& inputs, T* dx,
                   float* dgamma, float* dbeta) = 0;
};

template <class T>
class CpuGroupNormGradOp : public GroupNormGradOp<T> {
  using GroupNormGradOp<T>::GroupNormGradOp;

  void run(OpKernelContext* context, const GroupNormShape& shape, const NormInputs<T>& inputs, T* dx, float* dgamma,
           float* dbeta) override {
    const int64_t channels = shape.channels, width = shape.channels_of_group();
    const GroupNormKernels<T>& kernel = group_norm_kernels<T>(kernels());
    const Affines affines(shape, inputs);
    std::vector<float> sums(shape.images * norm_chunks(shape.positions) * channels), products(sums.size());
    for_each_chunk(context, shape, 2, [&](int64_t image, int64_t chunk, int64_t first, int64_t positions) {
      const int64_t of_image = image * channels;
      kernel.backward_sums(inputs.x + first * channels, inputs.dy + first * channels, affines.scale.data() + of_image,
                           affines.shift.data() + of_image, shape.relu, positions, channels,
                           sums.data() + chunk * channels, products.data() + chunk * channels);
    });

    const std::vector<double> dy = over_chunks(shape, sums), dy_x = over_chunks(shape, products);
    std::vector<double> of_gamma(channels), of_beta(channels);
    std::vector<float> x_scale(dy.size()), shift(dy.size());
    for (int64_t group = 0; group < shape.images * shape.groups; ++group) {
      const int64_t first_channel = group % shape.groups * width;
      const double mean = inputs.mean[group], r = inputs.inverse_deviation[group];
      double mean_a = 0.0, mean_b = 0.0;
      for (int64_t c = 0; c < width; ++c) {
        const int64_t i = group * width + c, channel = first_channel + c;
        const double dy_xhat = (dy_x[i] - mean * dy[i]) * r;
        of_gamma[channel] += dy_xhat;
        of_beta[channel] += dy[i];
        mean_a += inputs.gamma[channel] * dy[i] / shape.count();
        mean_b += inputs.gamma[channel] * dy_xhat / shape.count();
      }
      const NormBackward terms = norm_backward(mean_a, mean_b, mean, r);
      std::fill_n(x_scale.begin() + group * width, width, terms.x_scale);
      std::fill_n(shift.begin() + group * width, width, terms.shift);
    }
    std::copy(of_gamma.begin(), of_gamma.end(), dgamma);
    std::copy(of_beta.begin(), of_beta.end(), dbeta);

    for_each_chunk(context, shape, 2, [&](int64_t image, int64_t, int64_t first, int64_t positions) {
      const int64_t of_image = image * channels;
      kernel.backward_apply(inputs.x + first * channels, inputs.dy + first * channels, affines.scale.data() + of_image,
                            affines.shift.data() + of_image, shape.relu, x_scale.data() + of_image,
                            shift.data() + of_image, positions, channels, dx + first * channels);
    });
  }
};

#define REGISTER_GROUP_NORM(TENSORFLOW_TYPE, KERNEL_TYPE)                                                     \
  REGISTER_KERNEL_BUILDER(Name("MrcnnGroupNorm").Device(DEVICE_CPU).TypeConstraint<TENSORFLOW_TYPE>("T"),     \
                          CpuGroupNormOp<KERNEL_TYPE>);                                                       \
  REGISTER_KERNEL_BUILDER(Name("MrcnnGroupNormGrad").Device(DEVICE_CPU).TypeConstraint<TENSORFLOW_TYPE>("T"), \
                          CpuGroupNormGradOp<KERNEL_TYPE>);

REGISTER_GROUP_NORM(float, float)
REGISTER_GROUP_NORM(Eigen::half, Half)
REGISTER_GROUP_NORM(tensorflow::bfloat16, BFloat16)

#ifdef MRCNN_HAVE_CUDA
template <class T>
class CudaGroupNormOp : public GroupNormOp<T> {
  using GroupNormOp<T>::GroupNormOp;

  void run(OpKernelContext* context, const GroupNormShape& shape, const T* x, const float* gamma, const float* beta,
           T* y, const GroupStatistics& statistics) override {
    Scratch scratch;
    OP_REQUIRES_OK(context, scratch.allocate(context, cuda::scratch_bytes(shape)));
    OP_REQUIRES_OK(context, cuda_status(cuda::group_norm(shape, x, gamma, beta, y, statistics, scratch.data(),
                                                         stream_of(context))));
  }
};

template <class T>
class CudaGroupNormGradOp : public GroupNormGradOp<T> {
  using GroupNormGradOp<T>::GroupNormGradOp;

  void run(OpKernelContext* context, const GroupNormShape& shape, const NormInputs<T>& inputs, T* dx, float* dgamma,
           float* dbeta) override {
    Scratch scratch;
    OP_REQUIRES_OK(context, scratch.allocate(context, cuda::scratch_bytes(shape)));
    OP_REQUIRES_OK(context, cuda_status(cuda::group_norm_backward(shape, inputs, dx, dgamma, dbeta, scratch.data(),
                                                                  stream_of(context))));
  }
};

#define REGISTER_CUDA_GROUP_NORM(TENSORFLOW_TYPE, KERNEL_TYPE)                                                \
  REGISTER_KERNEL_BUILDER(Name("MrcnnGroupNorm").Device(DEVICE_GPU).TypeConstraint<TENSORFLOW_TYPE>("T"),     \
                          CudaGroupNormOp<KERNEL_TYPE>);                                                      \
  REGISTER_KERNEL_BUILDER(Name("MrcnnGroupNormGrad").Device(DEVICE_GPU).TypeConstraint<TENSORFLOW_TYPE>("T"), \
                          CudaGroupNormGradOp<KERNEL_TYPE>);

REGISTER_CUDA_GROUP_NORM(float, float)
REGISTER_CUDA_GROUP_NORM(Eigen::half, Half)
REGISTER_CUDA_GROUP_NORM(tensorflow::bfloat16, BFloat16)
#endif

}  // namespace mrcnn
