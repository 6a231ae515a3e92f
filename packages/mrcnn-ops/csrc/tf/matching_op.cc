// MrcnnMatchBoxes.
//
// N images, A boxes per image, G ground truths, K crowds.
#include <algorithm>
#include <vector>

#include "check.h"
#include "cpu/kernels.h"
#include "cuda_device.h"
#include "matching.h"

namespace mrcnn {

REGISTER_OP("MrcnnMatchBoxes")
    .Input("boxes: float")
    .Input("boxes_valid: bool")
    .Input("gt_boxes: float")
    .Input("gt_valid: bool")
    .Input("crowd_boxes: float")
    .Output("best_iou: float")
    .Output("best_gt: int32")
    .Output("is_best_for_gt: bool")
    .Output("crowd_overlap: float")
    .Attr("boxes_are_shared: bool")
    .Attr("all_boxes_valid: bool")
    .SetShapeFn([](InferenceContext* c) {
      bool shared, all_valid;
      TF_RETURN_IF_ERROR(c->GetAttr("boxes_are_shared", &shared));
      TF_RETURN_IF_ERROR(c->GetAttr("all_boxes_valid", &all_valid));
      ShapeHandle boxes, boxes_valid, gt_boxes, gt_valid, crowd_boxes;
      TF_RETURN_IF_ERROR(infer_shape(c, 0, "boxes", shared ? "[A, 4]" : "[N, A, 4]", &boxes));
      TF_RETURN_IF_ERROR(infer_shape(c, 1, "boxes_valid", "[N, A]", &boxes_valid));
      TF_RETURN_IF_ERROR(infer_shape(c, 2, "gt_boxes", "[N, G, 4]", &gt_boxes));
      TF_RETURN_IF_ERROR(infer_shape(c, 3, "gt_valid", "[N, G]", &gt_valid));
      TF_RETURN_IF_ERROR(infer_shape(c, 4, "crowd_boxes", "[N, K, 4]", &crowd_boxes));
      DimensionHandle images = c->Dim(gt_boxes, 0), num_gt = c->Dim(gt_boxes, 1), num_boxes = c->Dim(boxes, -2);
      if (!shared) TF_RETURN_IF_ERROR(infer_axis(c, "boxes", boxes, 0, &images, "gt_boxes"));
      TF_RETURN_IF_ERROR(infer_axis(c, "gt_valid", gt_valid, 0, &images, "gt_boxes"));
      TF_RETURN_IF_ERROR(infer_axis(c, "gt_valid", gt_valid, 1, &num_gt, "gt_boxes"));
      TF_RETURN_IF_ERROR(infer_axis(c, "crowd_boxes", crowd_boxes, 0, &images, "gt_boxes"));
      if (!all_valid) {
        TF_RETURN_IF_ERROR(infer_axis(c, "boxes_valid", boxes_valid, 0, &images, "gt_boxes"));
        TF_RETURN_IF_ERROR(infer_axis(c, "boxes_valid", boxes_valid, 1, &num_boxes, "boxes"));
      }
      for (int output = 0; output < 4; ++output) c->set_output(output, c->Matrix(images, num_boxes));
      return absl::OkStatus();
    });

// What the op does on every device: attributes, checks, outputs. `run` then fills the outputs of at least one box.
class MatchBoxesOp : public OpKernel {
 public:
  explicit MatchBoxesOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("boxes_are_shared", &boxes_are_shared_));
    OP_REQUIRES_OK(context, context->GetAttr("all_boxes_valid", &all_boxes_valid_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& boxes = context->input(0);
    const Tensor& boxes_valid = context->input(1);
    const Tensor& gt_boxes = context->input(2);
    const Tensor& gt_valid = context->input(3);
    const Tensor& crowd_boxes = context->input(4);
    OP_REQUIRES_OK(context, check_shape("boxes", boxes.shape(), boxes_are_shared_ ? "[A, 4]" : "[N, A, 4]"));
    OP_REQUIRES_OK(context, check_shape("gt_boxes", gt_boxes.shape(), "[N, G, 4]"));
    OP_REQUIRES_OK(context, check_shape("gt_valid", gt_valid.shape(), "[N, G]"));
    OP_REQUIRES_OK(context, check_shape("crowd_boxes", crowd_boxes.shape(), "[N, K, 4]"));
    for (const auto& [name, tensor] :
         {std::pair{"boxes", &boxes}, {"gt_boxes", &gt_boxes}, {"crowd_boxes", &crowd_boxes}}) {
      OP_REQUIRES_OK(context, check_size(name, *tensor));
    }
    const int64_t num_images = gt_boxes.dim_size(0);
    const int64_t num_boxes = boxes.dim_size(boxes.dims() - 2);
    const int num_gt = static_cast<int>(gt_boxes.dim_size(1));
    const int num_crowds = static_cast<int>(crowd_boxes.dim_size(1));
    if (!boxes_are_shared_) OP_REQUIRES_OK(context, check_axis("boxes", 0, boxes.dim_size(0), num_images, "gt_boxes"));
    OP_REQUIRES_OK(context, check_axis("gt_valid", 0, gt_valid.dim_size(0), num_images, "gt_boxes"));
    OP_REQUIRES_OK(context, check_axis("gt_valid", 1, gt_valid.dim_size(1), num_gt, "gt_boxes"));
    OP_REQUIRES_OK(context, check_axis("crowd_boxes", 0, crowd_boxes.dim_size(0), num_images, "gt_boxes"));
    if (!all_boxes_valid_) {
      OP_REQUIRES_OK(context, check_shape("boxes_valid", boxes_valid.shape(), "[N, A]"));
      OP_REQUIRES_OK(context, check_axis("boxes_valid", 0, boxes_valid.dim_size(0), num_images, "gt_boxes"));
      OP_REQUIRES_OK(context, check_axis("boxes_valid", 1, boxes_valid.dim_size(1), num_boxes, "boxes"));
    }

    Tensor* outputs[4];
    for (int i = 0; i < 4; ++i)
      OP_REQUIRES_OK(context, context->allocate_output(i, {num_images, num_boxes}, &outputs[i]));
    if (outputs[0]->NumElements() == 0) return;
    run(context, {static_cast<int>(num_images), static_cast<int>(num_boxes), num_gt, num_crowds, boxes_are_shared_},
        {reinterpret_cast<const Box*>(boxes.flat<float>().data()),
         all_boxes_valid_ ? nullptr : boxes_valid.flat<bool>().data(),
         reinterpret_cast<const Box*>(gt_boxes.flat<float>().data()), gt_valid.flat<bool>().data(),
         reinterpret_cast<const Box*>(crowd_boxes.flat<float>().data())},
        {outputs[0]->flat<float>().data(), outputs[1]->flat<int32_t>().data(), outputs[2]->flat<bool>().data(),
         outputs[3]->flat<float>().data()});
  }

 private:
  virtual void run(OpKernelContext* context, const MatchParams& params, const MatchInputs& inputs,
                   const MatchOutputs& outputs) = 0;

  bool boxes_are_shared_;
  bool all_boxes_valid_;
};

class CpuMatchBoxesOp : public MatchBoxesOp {
  using MatchBoxesOp::MatchBoxesOp;

  static constexpr int64_t kBlock = 4096;

  void run(OpKernelContext* context, const MatchParams& params, const MatchInputs& inputs,
           const MatchOutputs& outputs) override {
    const int64_t num_images = params.num_images, num_boxes = params.num_boxes, num_gt = params.num_gt;
    const auto targets_of = [&](int64_t image) {
      return MatchTargets{inputs.gt_boxes + image * num_gt, inputs.gt_valid + image * num_gt,
                          inputs.crowd_boxes + image * params.num_crowds, params.num_gt, params.num_crowds};
    };
    // A block of boxes is one unit of work; `first` counts boxes over all images.
    const int64_t blocks_per_image = (num_boxes + kBlock - 1) / kBlock;
    const auto for_each_block = [&](int64_t cycles_per_box, const auto& work) {
      workers(context).workers->ParallelFor(
          num_images * blocks_per_image, cycles_per_box * std::min(num_boxes, kBlock), [&](int64_t begin, int64_t end) {
            for (int64_t block = begin; block < end; ++block) {
              const int64_t image = block / blocks_per_image;
              const int64_t offset = block % blocks_per_image * kBlock;
              const int64_t source = (params.boxes_are_shared ? 0 : image * num_boxes) + offset;
              work(block, image, image * num_boxes + offset, std::min(kBlock, num_boxes - offset),
                   inputs.boxes + source);
            }
          });
    };

    // Every block writes its best IoU for each ground truth; the greatest of these does not depend on the order of the
    // blocks.
    std::vector<float> block_best(num_images * blocks_per_image * num_gt), best(num_images * num_gt);
    const auto valid_of = [&](int64_t first) {
      return inputs.boxes_valid == nullptr ? nullptr : inputs.boxes_valid + first;
    };
    for_each_block(10 + 2 * (num_gt + params.num_crowds), [&](int64_t block, int64_t image, int64_t first,
                                                              int64_t count, const Box* box) {
      std::vector<float> scratch(match_scratch_floats(params.num_gt));
      kernels().match(targets_of(image), box, valid_of(first), count, outputs.best_iou + first, outputs.best_gt + first,
                      outputs.crowd_overlap + first, block_best.data() + block * num_gt, scratch.data());
    });
    for (int64_t block = 0; block < num_images * blocks_per_image; ++block) {
      for (int64_t gt = 0; gt < num_gt; ++gt) {
        float& greatest = best[block / blocks_per_image * num_gt + gt];
        greatest = std::max(greatest, block_best[block * num_gt + gt]);
      }
    }
    for_each_block(1 + 4 * num_gt / blocks_per_image, [&](int64_t block, int64_t image, int64_t first, int64_t count,
                                                          const Box* box) {
      kernels().mark_best(targets_of(image), box, valid_of(first), count, block_best.data() + block * num_gt,
                          best.data() + image * num_gt, outputs.is_best_for_gt + first);
    });
  }
};

REGISTER_KERNEL_BUILDER(Name("MrcnnMatchBoxes").Device(DEVICE_CPU), CpuMatchBoxesOp);

#ifdef MRCNN_HAVE_CUDA
class CudaMatchBoxesOp : public MatchBoxesOp {
  using MatchBoxesOp::MatchBoxesOp;

  void run(OpKernelContext* context, const MatchParams& params, const MatchInputs& inputs,
           const MatchOutputs& outputs) override {
    Scratch scratch;
    OP_REQUIRES_OK(context, scratch.allocate(context, cuda::scratch_bytes(params)));
    OP_REQUIRES_OK(context,
                   cuda_status(cuda::match_boxes(params, inputs, outputs, scratch.data(), stream_of(context))));
  }
};

REGISTER_KERNEL_BUILDER(Name("MrcnnMatchBoxes").Device(DEVICE_GPU), CudaMatchBoxesOp);
#endif

}  // namespace mrcnn
