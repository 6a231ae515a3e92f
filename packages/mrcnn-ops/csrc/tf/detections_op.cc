// MrcnnMulticlassNms.
//
// N images, R RoIs per image, C classes without background, D detections per image.
#include <memory>
#include <vector>

#include "check.h"
#include "cpu/detections.h"
#include "cuda_device.h"

namespace mrcnn {

REGISTER_OP("MrcnnMulticlassNms")
    .Input("boxes: float")
    .Input("scores: float")
    .Output("detected_boxes: float")
    .Output("detected_scores: float")
    .Output("classes: int32")
    .Output("roi_indices: int32")
    .Output("valid: bool")
    .Attr("score_threshold: float")
    .Attr("nms_threshold: float")
    .Attr("max_detections: int >= 1")
    .SetShapeFn([](InferenceContext* c) {
      int max_detections;
      TF_RETURN_IF_ERROR(c->GetAttr("max_detections", &max_detections));
      ShapeHandle boxes, scores;
      TF_RETURN_IF_ERROR(infer_shape(c, 0, "boxes", "[N, R, C, 4]", &boxes));
      TF_RETURN_IF_ERROR(infer_shape(c, 1, "scores", "[N, R, C]", &scores));
      DimensionHandle images = c->Dim(scores, 0), rois = c->Dim(scores, 1), classes = c->Dim(scores, 2);
      TF_RETURN_IF_ERROR(infer_axis(c, "boxes", boxes, 0, &images, "scores"));
      TF_RETURN_IF_ERROR(infer_axis(c, "boxes", boxes, 1, &rois, "scores"));
      if (c->ValueKnown(c->Dim(boxes, 2)) && c->Value(c->Dim(boxes, 2)) != 1) {
        TF_RETURN_IF_ERROR(infer_axis(c, "boxes", boxes, 2, &classes, "scores (or 1)"));
      }
      c->set_output(0, c->MakeShape({images, max_detections, 4}));
      for (int output = 1; output < 5; ++output) c->set_output(output, c->MakeShape({images, max_detections}));
      return absl::OkStatus();
    });

// What the op does on every device: attributes, checks, outputs. `run` then fills the outputs of at least one image.
class MulticlassNmsOp : public OpKernel {
 public:
  explicit MulticlassNmsOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("score_threshold", &attributes_.score_threshold));
    OP_REQUIRES_OK(context, context->GetAttr("nms_threshold", &attributes_.nms_threshold));
    OP_REQUIRES_OK(context, context->GetAttr("max_detections", &attributes_.max_detections));
    OP_REQUIRES(context, attributes_.nms_threshold >= 0.0f,
                InvalidArgument("nms_threshold must not be negative, got ", attributes_.nms_threshold));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& boxes = context->input(0);
    const Tensor& scores = context->input(1);
    OP_REQUIRES_OK(context, check_shape("boxes", boxes.shape(), "[N, R, C, 4]"));
    OP_REQUIRES_OK(context, check_shape("scores", scores.shape(), "[N, R, C]"));
    OP_REQUIRES_OK(context, check_size("boxes", boxes));
    OP_REQUIRES_OK(context, check_size("scores", scores));
    OP_REQUIRES_OK(context, check_axis("boxes", 0, boxes.dim_size(0), scores.dim_size(0), "scores"));
    OP_REQUIRES_OK(context, check_axis("boxes", 1, boxes.dim_size(1), scores.dim_size(1), "scores"));
    if (boxes.dim_size(2) != 1) {
      OP_REQUIRES_OK(context, check_axis("boxes", 2, boxes.dim_size(2), scores.dim_size(2), "scores (or 1)"));
    }

    DetectionParams params = attributes_;
    params.num_images = static_cast<int>(scores.dim_size(0));
    params.num_rois = static_cast<int>(scores.dim_size(1));
    params.num_classes = static_cast<int>(scores.dim_size(2));
    params.shared_boxes = boxes.dim_size(2) == 1;

    const int64_t images = params.num_images, wanted = params.max_detections;
    Tensor *out_boxes, *out_scores, *out_classes, *out_rois, *out_valid;
    OP_REQUIRES_OK(context, context->allocate_output(0, {images, wanted, 4}, &out_boxes));
    OP_REQUIRES_OK(context, context->allocate_output(1, {images, wanted}, &out_scores));
    OP_REQUIRES_OK(context, context->allocate_output(2, {images, wanted}, &out_classes));
    OP_REQUIRES_OK(context, context->allocate_output(3, {images, wanted}, &out_rois));
    OP_REQUIRES_OK(context, context->allocate_output(4, {images, wanted}, &out_valid));
    if (images == 0) return;
    const Detections detections = {reinterpret_cast<Box*>(out_boxes->flat<float>().data()),
                                   out_scores->flat<float>().data(), out_classes->flat<int32_t>().data(),
                                   out_rois->flat<int32_t>().data(), out_valid->flat<bool>().data()};

    run(context, params, reinterpret_cast<const Box*>(boxes.flat<float>().data()), scores.flat<float>().data(),
        detections);
  }

 private:
  virtual void run(OpKernelContext* context, const DetectionParams& params, const Box* boxes, const float* scores,
                   const Detections& detections) = 0;

  DetectionParams attributes_;
};

class CpuMulticlassNmsOp : public MulticlassNmsOp {
  using MulticlassNmsOp::MulticlassNmsOp;

  void run(OpKernelContext* context, const DetectionParams& params, const Box* boxes, const float* scores,
           const Detections& detections) override {
    const int64_t units = int64_t{params.num_images} * params.num_classes;
    std::vector<int> class_rois(units * max_class_detections(params)), class_counts(units);
    const size_t scratch_bytes = detections_scratch_bytes(params);
    auto* pool = workers(context).workers;
    pool->ParallelFor(units, 20 + int64_t{4} * params.num_rois, [&](int64_t begin, int64_t end) {
      std::unique_ptr<uint64_t[]> scratch(new uint64_t[scratch_bytes / 8 + 1]);
      detect_per_class(params, boxes, scores, begin, end, class_rois.data(), class_counts.data(), scratch.get());
    });
    const int64_t merge_cost = int64_t{10} * params.max_detections + int64_t{20} * params.num_classes;
    pool->ParallelFor(params.num_images, merge_cost, [&](int64_t begin, int64_t end) {
      std::unique_ptr<uint64_t[]> scratch(new uint64_t[scratch_bytes / 8 + 1]);
      merge_classes(params, boxes, scores, class_rois.data(), class_counts.data(), begin, end, detections,
                    scratch.get());
    });
  }
};

REGISTER_KERNEL_BUILDER(Name("MrcnnMulticlassNms").Device(DEVICE_CPU), CpuMulticlassNmsOp);

#ifdef MRCNN_HAVE_CUDA
class CudaMulticlassNmsOp : public MulticlassNmsOp {
  using MulticlassNmsOp::MulticlassNmsOp;

  void run(OpKernelContext* context, const DetectionParams& params, const Box* boxes, const float* scores,
           const Detections& detections) override {
    OP_REQUIRES_OK(context, check_candidates("boxes of an image", params.num_rois));
    Scratch scratch;
    OP_REQUIRES_OK(context, scratch.allocate(context, cuda::scratch_bytes(params)));
    OP_REQUIRES_OK(context, cuda_status(cuda::multiclass_nms(params, {boxes, scores}, detections, scratch.data(),
                                                             stream_of(context))));
  }
};

REGISTER_KERNEL_BUILDER(Name("MrcnnMulticlassNms").Device(DEVICE_GPU), CudaMulticlassNmsOp);
#endif

}  // namespace mrcnn
