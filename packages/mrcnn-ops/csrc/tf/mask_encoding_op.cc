// MrcnnEncodeMasks.
//
// K masks of M x M.
#include <algorithm>
#include <cmath>

#include "check.h"
#include "cpu/mask_encoder.h"

namespace mrcnn {

REGISTER_OP("MrcnnEncodeMasks")
    .Input("masks: float")
    .Input("boxes: float")
    .Input("image_sizes: int32")
    .Output("counts: string")
    .Attr("threshold: float = 0.5")
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle masks, boxes, image_sizes;
      TF_RETURN_IF_ERROR(infer_shape(c, 0, "masks", "[K, M, M]", &masks));
      TF_RETURN_IF_ERROR(infer_shape(c, 1, "boxes", "[K, 4]", &boxes));
      TF_RETURN_IF_ERROR(infer_shape(c, 2, "image_sizes", "[K, 2]", &image_sizes));
      DimensionHandle num_masks = c->Dim(masks, 0), mask_size = c->Dim(masks, 1);
      TF_RETURN_IF_ERROR(infer_axis(c, "masks", masks, 2, &mask_size, "axis 1"));
      TF_RETURN_IF_ERROR(infer_axis(c, "boxes", boxes, 0, &num_masks, "masks"));
      TF_RETURN_IF_ERROR(infer_axis(c, "image_sizes", image_sizes, 0, &num_masks, "masks"));
      c->set_output(0, c->Vector(num_masks));
      return absl::OkStatus();
    });

class EncodeMasksOp : public OpKernel {
 public:
  explicit EncodeMasksOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("threshold", &threshold_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& masks = context->input(0);
    const Tensor& boxes = context->input(1);
    const Tensor& image_sizes = context->input(2);
    OP_REQUIRES_OK(context, check_shape("masks", masks.shape(), "[K, M, M]"));
    OP_REQUIRES_OK(context, check_shape("boxes", boxes.shape(), "[K, 4]"));
    OP_REQUIRES_OK(context, check_shape("image_sizes", image_sizes.shape(), "[K, 2]"));
    const int64_t num_masks = masks.dim_size(0);
    const int64_t size = masks.dim_size(1);
    OP_REQUIRES_OK(context, check_axis("masks", 2, masks.dim_size(2), size, "axis 1"));
    OP_REQUIRES_OK(context, check_axis("boxes", 0, boxes.dim_size(0), num_masks, "masks"));
    OP_REQUIRES_OK(context, check_axis("image_sizes", 0, image_sizes.dim_size(0), num_masks, "masks"));
    OP_REQUIRES(context, size >= 1 && size <= 4096, InvalidArgument("masks must be 1 to 4096 pixels wide, got ", size));
    const int* sizes = image_sizes.flat<int32_t>().data();
    int64_t pixels = 0;
    for (int64_t i = 0; i < num_masks; ++i) {
      const int64_t height = sizes[2 * i], width = sizes[2 * i + 1];
      OP_REQUIRES(context, height > 0 && width > 0 && height * width < (int64_t{1} << 31),
                  InvalidArgument("image_sizes must be positive and below 2^31 pixels in all, got ", height, " x ",
                                  width, " for mask ", i));
      OP_REQUIRES(context, std::max(height, width) <= kMaxEdge,
                  InvalidArgument("image_sizes must be at most ", kMaxEdge, " (float32 counts no further pixels), got ",
                                  height, " x ", width, " for mask ", i));
      pixels += height * width;
    }

    Tensor* counts;
    OP_REQUIRES_OK(context, context->allocate_output(0, {num_masks}, &counts));
    if (num_masks == 0) return;
    tstring* out = counts->flat<tstring>().data();
    const auto* box = reinterpret_cast<const Box*>(boxes.flat<float>().data());
    const float* mask = masks.flat<float>().data();
    // A column costs about 5 cycles per row of the mask; boxes are taken to be a third of the image wide.
    const int64_t cost =
        4 * size * size + static_cast<int64_t>(std::sqrt(static_cast<double>(pixels / num_masks)) * size * 5 / 3);
    workers(context).workers->ParallelFor(num_masks, cost, [&](int64_t begin, int64_t end) {
      MaskEncoder encoder(static_cast<int>(size));
      std::string text;
      for (int64_t i = begin; i < end; ++i) {
        encoder.encode(mask + i * size * size, box[i], sizes[2 * i], sizes[2 * i + 1], threshold_, &text);
        out[i] = text;
      }
    });
  }

 private:
  static constexpr int64_t kMaxEdge = int64_t{1} << 24;

  float threshold_;
};

REGISTER_KERNEL_BUILDER(Name("MrcnnEncodeMasks").Device(DEVICE_CPU), EncodeMasksOp);

}  // namespace mrcnn
