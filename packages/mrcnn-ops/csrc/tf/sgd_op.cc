// MrcnnGradientNorm and MrcnnSgd: the whole update of SGD in two ops.
#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "cpu/kernels.h"
#include "cuda_device.h"
#include "sgd.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_var.h"

namespace mrcnn {

using tensorflow::Var;

REGISTER_OP("MrcnnGradientNorm")
    .Input("gradients: N * float")
    .Input("values: N * float")
    .Input("scale: float")
    .Output("norm: float")
    .Attr("N: int >= 1")
    .Attr("weight_decays: list(float)")
    .SetShapeFn([](InferenceContext* c) {
      c->set_output(0, c->Scalar());
      return absl::OkStatus();
    });

REGISTER_OP("MrcnnSgd")
    .Input("variables: N * resource")
    .Input("momenta: N * resource")
    .Input("gradients: N * float")
    .Input("scale: float")
    .Input("clip: float")
    .Input("rate: float")
    .Input("is_taken: bool")
    .Attr("N: int >= 1")
    .Attr("momentum: float")
    .Attr("weight_decays: list(float)")
    .Attr("rate_factors: list(float)")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext*) { return absl::OkStatus(); });

// What both ops do on every device: attributes and checks.
class OpOfVariables : public OpKernel {
 public:
  explicit OpOfVariables(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("N", &count_));
    OP_REQUIRES_OK(context, read_list(context, "weight_decays", &weight_decays_));
  }

 protected:
  absl::Status read_list(OpKernelConstruction* context, const char* name, std::vector<float>* values) const {
    TF_RETURN_IF_ERROR(context->GetAttr(name, values));
    if (static_cast<int>(values->size()) == count_) return absl::OkStatus();
    return InvalidArgument(name, " must have ", count_, " numbers, one for each variable, got ", values->size());
  }

  absl::Status fill(int i, const Tensor& gradient, const Tensor& value, SgdVariable* variable) const {
    if (gradient.shape() != value.shape()) {
      return InvalidArgument("gradient ", i, " must have shape ", value.shape().DebugString(),
                             ", as its variable has, got ", gradient.shape().DebugString());
    }
    *variable = {};
    variable->gradient = gradient.flat<float>().data();
    variable->value = value.flat<float>().data();
    variable->count = value.NumElements();
    variable->weight_decay = weight_decays_[i];
    return absl::OkStatus();
  }

  int count_;
  std::vector<float> weight_decays_;
};

// All chunks of all variables, shared among the threads; `work(variable, range, chunk)`.
template <class Work>
void for_each_chunk(OpKernelContext* context, const std::vector<SgdVariable>& variables,
                    const std::vector<int64_t>& first_chunk, int64_t cycles, const Work& work) {
  workers(context).workers->ParallelFor(first_chunk.back(), cycles * kSgdChunk, [&](int64_t begin, int64_t end) {
    size_t index = std::upper_bound(first_chunk.begin(), first_chunk.end(), begin) - first_chunk.begin() - 1;
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      while (chunk >= first_chunk[index + 1]) ++index;
      const SgdVariable& variable = variables[index];
      work(variable, sgd_range(variable.count, chunk - first_chunk[index]), chunk);
    }
  });
}

inline std::vector<int64_t> first_chunks(const std::vector<SgdVariable>& variables) {
  std::vector<int64_t> first = {0};
  for (const SgdVariable& variable : variables) first.push_back(first.back() + sgd_chunks(variable.count));
  return first;
}

class GradientNormOp : public OpOfVariables {
 public:
  using OpOfVariables::OpOfVariables;

  void Compute(OpKernelContext* context) override {
    std::vector<SgdVariable> variables(count_);
    for (int i = 0; i < count_; ++i) {
      OP_REQUIRES_OK(context, fill(i, context->input(i), context->input(count_ + i), &variables[i]));
    }
    const Tensor& scale = context->input(2 * count_);
    OP_REQUIRES_OK(context, check_shape("scale", scale.shape(), "[]"));
    Tensor* norm;
    OP_REQUIRES_OK(context, context->allocate_output(0, {}, &norm));
    run(context, variables, scale.flat<float>().data(), norm->flat<float>().data());
  }

 private:
  virtual void run(OpKernelContext* context, const std::vector<SgdVariable>& variables, const float* scale,
                   float* norm) = 0;
};

class CpuGradientNormOp : public GradientNormOp {
  using GradientNormOp::GradientNormOp;

  void run(OpKernelContext* context, const std::vector<SgdVariable>& variables, const float* scale,
           float* norm) override {
    const std::vector<int64_t> first_chunk = first_chunks(variables);
    std::vector<double> sums(first_chunk.back());  // added in one order, whatever the number of threads
    for_each_chunk(context, variables, first_chunk, 2,
                   [&](const SgdVariable& variable, const SgdRange& range, int64_t chunk) {
                     sums[chunk] = kernels().sum_of_squares(variable, range, *scale);
                   });
    double sum = 0.0;
    for (const double of_chunk : sums) sum += of_chunk;
    *norm = static_cast<float>(std::sqrt(sum));
  }
};

REGISTER_KERNEL_BUILDER(Name("MrcnnGradientNorm").Device(DEVICE_CPU), CpuGradientNormOp);

// Variables that are read and written: all are locked until this goes out of scope. A variable whose memory is still
// read by another op (a value read before) gets new memory, as TensorFlow's own updates give it.
class LockedVariables {
 public:
  ~LockedVariables() {
    for (Var* var : locked_) var->mu()->unlock();
  }

  // Takes `count` inputs of the op, from `first`.
  absl::Status add(OpKernelContext* context, int first, int count, const char* kind) {
    for (int i = 0; i < count; ++i) {
      tensorflow::core::RefCountPtr<Var> var;
      TF_RETURN_IF_ERROR(LookupResource(context, tensorflow::HandleFromInput(context, first + i), &var));
      names_.push_back(kind + (" " + std::to_string(i)));
      vars_.push_back(std::move(var));
    }
    return absl::OkStatus();
  }

  absl::Status lock(OpKernelContext* context) {
    std::vector<Var*> order;
    for (const auto& var : vars_) order.push_back(var.get());
    std::sort(order.begin(), order.end(),
              [](Var* a, Var* b) { return a->mu() < b->mu(); });  // as all ops of TensorFlow
    if (std::adjacent_find(order.begin(), order.end()) != order.end()) {
      return InvalidArgument("a variable is given twice, among variables and momenta");
    }
    for (Var* var : order) {
      var->mu()->lock();
      locked_.push_back(var);
    }
    for (size_t i = 0; i < vars_.size(); ++i) {
      Tensor* tensor = vars_[i]->tensor();
      if (!vars_[i]->is_initialized || tensor->dtype() != tensorflow::DT_FLOAT) {
        return InvalidArgument(names_[i], " must be a float32 variable that has a value");
      }
      Tensor next;
      if (tensor->RefCountIsOne()) {
        next = *tensor;
      } else {
        tensorflow::AllocatorAttributes attributes;
        attributes.set_gpu_compatible(true);
        TF_RETURN_IF_ERROR(context->allocate_temp(tensor->dtype(), tensor->shape(), &next, attributes));
      }
      new_values_.push_back(next);
    }
    return absl::OkStatus();
  }

  const Tensor& value(int i) const { return *vars_[i]->tensor(); }
  float* new_value(int i) { return new_values_[i].flat<float>().data(); }

  void assign() {
    for (size_t i = 0; i < vars_.size(); ++i) *vars_[i]->tensor() = new_values_[i];
  }

 private:
  std::vector<tensorflow::core::RefCountPtr<Var>> vars_;
  std::vector<std::string> names_;
  std::vector<Var*> locked_;
  std::vector<Tensor> new_values_;
};

class SgdOp : public OpOfVariables {
 public:
  explicit SgdOp(OpKernelConstruction* context) : OpOfVariables(context) {
    OP_REQUIRES_OK(context, context->GetAttr("momentum", &momentum_));
    OP_REQUIRES_OK(context, read_list(context, "rate_factors", &rate_factors_));
  }

  void Compute(OpKernelContext* context) override {
    LockedVariables locked;
    OP_REQUIRES_OK(context, locked.add(context, 0, count_, "variable"));
    OP_REQUIRES_OK(context, locked.add(context, count_, count_, "momentum"));
    OP_REQUIRES_OK(context, locked.lock(context));
    std::vector<SgdVariable> variables(count_);
    for (int i = 0; i < count_; ++i) {
      const Tensor& momentum = locked.value(count_ + i);
      OP_REQUIRES_OK(context, fill(i, context->input(2 * count_ + i), locked.value(i), &variables[i]));
      OP_REQUIRES(context, momentum.shape() == locked.value(i).shape(),
                  InvalidArgument("momentum ", i, " must have shape ", locked.value(i).shape().DebugString(),
                                  ", as its variable has, got ", momentum.shape().DebugString()));
      variables[i].rate_factor = rate_factors_[i];
      variables[i].momentum = momentum.flat<float>().data();
      variables[i].new_value = locked.new_value(i);
      variables[i].new_momentum = locked.new_value(count_ + i);
    }
    const float* numbers[3];
    for (int i = 0; i < 3; ++i) {
      static const char* const kNames[] = {"scale", "clip", "rate"};
      const Tensor& number = context->input(3 * count_ + i);
      OP_REQUIRES_OK(context, check_shape(kNames[i], number.shape(), "[]"));
      numbers[i] = number.flat<float>().data();
    }
    const Tensor& is_taken = context->input(3 * count_ + 3);
    OP_REQUIRES_OK(context, check_shape("is_taken", is_taken.shape(), "[]"));
    if (run(context, variables, {numbers[0], numbers[1], numbers[2], is_taken.flat<bool>().data(), momentum_})) {
      locked.assign();
    }
  }

 private:
  // Returns whether the new values have been written.
  virtual bool run(OpKernelContext* context, const std::vector<SgdVariable>& variables, const SgdNumbers& numbers) = 0;

  float momentum_;
  std::vector<float> rate_factors_;
};

class CpuSgdOp : public SgdOp {
  using SgdOp::SgdOp;

  bool run(OpKernelContext* context, const std::vector<SgdVariable>& variables, const SgdNumbers& numbers) override {
    if (!*numbers.is_taken) return false;
    const SgdStep step = {*numbers.scale, *numbers.clip, *numbers.rate, numbers.momentum};
    for_each_chunk(
        context, variables, first_chunks(variables), 3,
        [&](const SgdVariable& variable, const SgdRange& range, int64_t) { kernels().sgd(variable, range, step); });
    return true;
  }
};

REGISTER_KERNEL_BUILDER(Name("MrcnnSgd").Device(DEVICE_CPU), CpuSgdOp);

#ifdef MRCNN_HAVE_CUDA
class CudaGradientNormOp : public GradientNormOp {
  using GradientNormOp::GradientNormOp;

  void run(OpKernelContext* context, const std::vector<SgdVariable>& variables, const float* scale,
           float* norm) override {
    Scratch scratch;
    OP_REQUIRES_OK(context, scratch.allocate(context, gradient_norm_scratch_bytes(variables.data(), count_)));
    OP_REQUIRES_OK(context, cuda_status(cuda::gradient_norm(variables.data(), count_, scale, norm, scratch.data(),
                                                            stream_of(context))));
  }
};

class CudaSgdOp : public SgdOp {
  using SgdOp::SgdOp;

  bool run(OpKernelContext* context, const std::vector<SgdVariable>& variables, const SgdNumbers& numbers) override {
    const absl::Status status = cuda_status(cuda::sgd(variables.data(), count_, numbers, stream_of(context)));
    if (!status.ok()) context->CtxFailure(status);
    return status.ok();
  }
};

REGISTER_KERNEL_BUILDER(Name("MrcnnGradientNorm").Device(DEVICE_GPU), CudaGradientNormOp);
REGISTER_KERNEL_BUILDER(Name("MrcnnSgd").Device(DEVICE_GPU).HostMemory("variables").HostMemory("momenta"), CudaSgdOp);
#endif

}  // namespace mrcnn
