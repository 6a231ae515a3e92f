// MrcnnMatchBoxes.
//
// N images, A boxes per image, G ground truths, K crowds.
#include <algorithm>
#include <vector>

#include "check.h"
#include "cpu/kernels.h"

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
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), shared ? 2 : 3, &boxes));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 2, &boxes_valid));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(2), 3, &gt_boxes));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(3), 2, &gt_valid));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(4), 3, &crowd_boxes));
      DimensionHandle images = c->Dim(gt_boxes, 0), num_boxes = c->Dim(boxes, -2), unused;
      TF_RETURN_IF_ERROR(c->Merge(images, c->Dim(gt_valid, 0), &images));
      TF_RETURN_IF_ERROR(c->Merge(images, c->Dim(crowd_boxes, 0), &images));
      TF_RETURN_IF_ERROR(c->Merge(c->Dim(gt_boxes, 1), c->Dim(gt_valid, 1), &unused));
      if (!shared) TF_RETURN_IF_ERROR(c->Merge(images, c->Dim(boxes, 0), &images));
      if (!all_valid) {
        TF_RETURN_IF_ERROR(c->Merge(images, c->Dim(boxes_valid, 0), &images));
        TF_RETURN_IF_ERROR(c->Merge(num_boxes, c->Dim(boxes_valid, 1), &num_boxes));
      }
      for (ShapeHandle shape : {boxes, gt_boxes, crowd_boxes})
        TF_RETURN_IF_ERROR(c->WithValue(c->Dim(shape, -1), 4, &unused));
      for (int output = 0; output < 4; ++output) c->set_output(output, c->Matrix(images, num_boxes));
      return absl::OkStatus();
    });

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
    float* best_iou = outputs[0]->flat<float>().data();
    int* best_gt = outputs[1]->flat<int32_t>().data();
    bool* is_best_for_gt = outputs[2]->flat<bool>().data();
    float* crowd_overlap = outputs[3]->flat<float>().data();

    const auto* gt = reinterpret_cast<const Box*>(gt_boxes.flat<float>().data());
    const auto* crowds = reinterpret_cast<const Box*>(crowd_boxes.flat<float>().data());
    const auto targets_of = [&](int64_t image) {
      return MatchTargets{gt + image * num_gt, gt_valid.flat<bool>().data() + image * num_gt,
                          crowds + image * num_crowds, num_gt, num_crowds};
    };
    // A block of boxes is one unit of work; `first` counts boxes over all images.
    const int64_t blocks_per_image = (num_boxes + kBlock - 1) / kBlock;
    const auto for_each_block = [&](int64_t cycles_per_box, const auto& work) {
      workers(context).workers->ParallelFor(
          num_images * blocks_per_image, cycles_per_box * std::min(num_boxes, kBlock), [&](int64_t begin, int64_t end) {
            for (int64_t block = begin; block < end; ++block) {
              const int64_t image = block / blocks_per_image;
              const int64_t offset = block % blocks_per_image * kBlock;
              const int64_t source = (boxes_are_shared_ ? 0 : image * num_boxes) + offset;
              work(block, image, image * num_boxes + offset, std::min(kBlock, num_boxes - offset),
                   reinterpret_cast<const Box*>(boxes.flat<float>().data()) + source);
            }
          });
    };

    // Every block notes the best IoU it has for each ground truth; the greatest of these does not depend on who was
    // first.
    std::vector<float> block_best(num_images * blocks_per_image * num_gt), best(num_images * num_gt);
    const auto valid_of = [&](int64_t first) {
      return all_boxes_valid_ ? nullptr : boxes_valid.flat<bool>().data() + first;
    };
    for_each_block(10 + 2 * (num_gt + num_crowds),
                   [&](int64_t block, int64_t image, int64_t first, int64_t count, const Box* box) {
                     std::vector<float> scratch(match_scratch_floats(num_gt));
                     kernels().match(targets_of(image), box, valid_of(first), count, best_iou + first, best_gt + first,
                                     crowd_overlap + first, block_best.data() + block * num_gt, scratch.data());
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
                          best.data() + image * num_gt, is_best_for_gt + first);
    });
  }

 private:
  static constexpr int64_t kBlock = 4096;

  bool boxes_are_shared_;
  bool all_boxes_valid_;
};

REGISTER_KERNEL_BUILDER(Name("MrcnnMatchBoxes").Device(DEVICE_CPU), MatchBoxesOp);

}  // namespace mrcnn
