// MrcnnGenerateProposals.
//
// N images, A anchors over all levels, L levels, R proposals per image.
#include <memory>
#include <vector>

#include "check.h"
#include "cpu/proposals.h"
#include "cuda_device.h"

namespace mrcnn {

REGISTER_OP("MrcnnGenerateProposals")
    .Input("logits: float")
    .Input("deltas: float")
    .Input("anchors: float")
    .Input("image_sizes: int32")
    .Input("level_sizes: int32")
    .Output("boxes: float")
    .Output("scores: float")
    .Output("valid: bool")
    .Attr("pre_nms_top_k: int >= 1")
    .Attr("post_nms_top_k: int >= 1")
    .Attr("num_proposals: int >= 1")
    .Attr("nms_threshold: float")
    .Attr("min_size: float")
    .Attr("max_log_scale: float")
    .Attr("keep_empty: bool")
    .Attr("keep_padding_anchors: bool")
    .SetShapeFn([](InferenceContext* c) {
      int num_proposals;
      TF_RETURN_IF_ERROR(c->GetAttr("num_proposals", &num_proposals));
      ShapeHandle logits, deltas, anchors, image_sizes, level_sizes;
      TF_RETURN_IF_ERROR(infer_shape(c, 0, "logits", "[N, A]", &logits));
      TF_RETURN_IF_ERROR(infer_shape(c, 1, "deltas", "[N, A, 4]", &deltas));
      TF_RETURN_IF_ERROR(infer_shape(c, 2, "anchors", "[A, 4]", &anchors));
      TF_RETURN_IF_ERROR(infer_shape(c, 3, "image_sizes", "[N, 2]", &image_sizes));
      TF_RETURN_IF_ERROR(infer_shape(c, 4, "level_sizes", "[L]", &level_sizes));
      DimensionHandle images = c->Dim(logits, 0), num_anchors = c->Dim(logits, 1);
      TF_RETURN_IF_ERROR(infer_axis(c, "deltas", deltas, 0, &images, "logits"));
      TF_RETURN_IF_ERROR(infer_axis(c, "deltas", deltas, 1, &num_anchors, "logits"));
      TF_RETURN_IF_ERROR(infer_axis(c, "anchors", anchors, 0, &num_anchors, "logits"));
      TF_RETURN_IF_ERROR(infer_axis(c, "image_sizes", image_sizes, 0, &images, "logits"));
      c->set_output(0, c->MakeShape({images, num_proposals, 4}));
      c->set_output(1, c->MakeShape({images, num_proposals}));
      c->set_output(2, c->MakeShape({images, num_proposals}));
      return absl::OkStatus();
    });

namespace {

// Fills in where each level's anchors begin and, last, where all of them end.
absl::Status add_levels(const Tensor& level_sizes, ProposalParams* params) {
  const int64_t num_levels = level_sizes.NumElements();
  if (num_levels > kMaxProposalLevels) {
    return InvalidArgument("level_sizes must be of at most ", kMaxProposalLevels, " levels, got ", num_levels);
  }
  params->num_levels = static_cast<int>(num_levels);
  params->level_begin[0] = 0;
  int64_t sum = 0;
  for (int level = 0; level < params->num_levels && sum <= params->num_anchors; ++level) {
    const int size = level_sizes.vec<int32_t>()(level);
    if (size < 0) return InvalidArgument("level_sizes must not be negative, got ", size, " for level ", level);
    sum += size;
    params->level_begin[level + 1] = static_cast<int>(sum);
  }
  if (sum == params->num_anchors) return absl::OkStatus();
  return InvalidArgument("level_sizes must add up to the number of anchors (", params->num_anchors, "), got ",
                         level_sizes.DebugString(16));
}

}  // namespace

// What the op does on every device: attributes, checks, outputs. `run` then fills the outputs of at least one image.
class GenerateProposalsOp : public OpKernel {
 public:
  explicit GenerateProposalsOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("pre_nms_top_k", &attributes_.pre_nms_top_k));
    OP_REQUIRES_OK(context, context->GetAttr("post_nms_top_k", &attributes_.post_nms_top_k));
    OP_REQUIRES_OK(context, context->GetAttr("num_proposals", &attributes_.num_proposals));
    OP_REQUIRES_OK(context, context->GetAttr("nms_threshold", &attributes_.nms_threshold));
    OP_REQUIRES_OK(context, context->GetAttr("min_size", &attributes_.min_size));
    OP_REQUIRES_OK(context, context->GetAttr("max_log_scale", &attributes_.max_log_scale));
    OP_REQUIRES_OK(context, context->GetAttr("keep_empty", &attributes_.keep_empty));
    OP_REQUIRES_OK(context, context->GetAttr("keep_padding_anchors", &attributes_.keep_padding_anchors));
    OP_REQUIRES(context, attributes_.nms_threshold >= 0.0f,
                InvalidArgument("nms_threshold must not be negative, got ", attributes_.nms_threshold));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& logits = context->input(0);
    const Tensor& deltas = context->input(1);
    const Tensor& anchors = context->input(2);
    const Tensor& image_sizes = context->input(3);
    const Tensor& level_sizes = context->input(4);
    OP_REQUIRES_OK(context, check_shape("logits", logits.shape(), "[N, A]"));
    OP_REQUIRES_OK(context, check_shape("deltas", deltas.shape(), "[N, A, 4]"));
    OP_REQUIRES_OK(context, check_shape("anchors", anchors.shape(), "[A, 4]"));
    OP_REQUIRES_OK(context, check_shape("image_sizes", image_sizes.shape(), "[N, 2]"));
    OP_REQUIRES_OK(context, check_shape("level_sizes", level_sizes.shape(), "[L]"));
    const int64_t num_images = logits.dim_size(0);
    const int64_t num_anchors = logits.dim_size(1);
    OP_REQUIRES_OK(context, check_axis("deltas", 0, deltas.dim_size(0), num_images, "logits"));
    OP_REQUIRES_OK(context, check_axis("deltas", 1, deltas.dim_size(1), num_anchors, "logits"));
    OP_REQUIRES_OK(context, check_axis("anchors", 0, anchors.dim_size(0), num_anchors, "logits"));
    OP_REQUIRES_OK(context, check_axis("image_sizes", 0, image_sizes.dim_size(0), num_images, "logits"));
    OP_REQUIRES_OK(context, check_size("anchors", anchors));
    OP_REQUIRES_OK(context, check_size("logits", logits));

    ProposalParams params = attributes_;
    params.num_images = static_cast<int>(num_images);
    params.num_anchors = static_cast<int>(num_anchors);
    OP_REQUIRES_OK(context, add_levels(level_sizes, &params));

    Tensor *boxes, *scores, *valid;
    const int64_t wanted = params.num_proposals;
    OP_REQUIRES_OK(context, context->allocate_output(0, {num_images, wanted, 4}, &boxes));
    OP_REQUIRES_OK(context, context->allocate_output(1, {num_images, wanted}, &scores));
    OP_REQUIRES_OK(context, context->allocate_output(2, {num_images, wanted}, &valid));
    if (num_images == 0) return;

    run(context, params,
        {logits.flat<float>().data(), deltas.flat<float>().data(),
         reinterpret_cast<const Box*>(anchors.flat<float>().data()), image_sizes.flat<int32_t>().data()},
        {reinterpret_cast<Box*>(boxes->flat<float>().data()), scores->flat<float>().data(),
         valid->flat<bool>().data()});
  }

 private:
  virtual void run(OpKernelContext* context, const ProposalParams& params, const ProposalInputs& inputs,
                   const ProposalOutputs& outputs) = 0;

  ProposalParams attributes_;
};

class CpuGenerateProposalsOp : public GenerateProposalsOp {
  using GenerateProposalsOp::GenerateProposalsOp;

  void run(OpKernelContext* context, const ProposalParams& params, const ProposalInputs& inputs,
           const ProposalOutputs& outputs) override {
    const int64_t units = int64_t{params.num_images} * params.num_levels;
    const int row = max_level_proposals(params);
    std::vector<Box> level_boxes(units * row);
    std::vector<float> level_scores(units * row);
    std::vector<int> level_counts(units);
    const size_t scratch_bytes = proposals_scratch_bytes(params);
    auto* pool = workers(context).workers;

    // Reading the logits, and comparing each candidate with about a quarter of the kept, eight at a time.
    const int64_t candidates = std::min<int64_t>(params.pre_nms_top_k, params.num_anchors);
    const int64_t cost = params.num_anchors / std::max(1, params.num_levels) +
                         candidates * (100 + std::min<int64_t>(row, candidates) / 4);
    pool->ParallelFor(units, cost, [&](int64_t begin, int64_t end) {
      std::unique_ptr<uint64_t[]> scratch(new uint64_t[scratch_bytes / 8 + 1]);
      propose_per_level(params, inputs.logits, inputs.deltas, inputs.anchors, inputs.image_sizes, begin, end,
                        level_boxes.data(), level_scores.data(), level_counts.data(), scratch.get());
    });
    const int64_t merge_cost = int64_t{50} * row * params.num_levels + int64_t{10} * params.num_proposals;
    pool->ParallelFor(params.num_images, merge_cost, [&](int64_t begin, int64_t end) {
      std::unique_ptr<uint64_t[]> scratch(new uint64_t[scratch_bytes / 8 + 1]);
      merge_levels(params, level_boxes.data(), level_scores.data(), level_counts.data(), begin, end, outputs.boxes,
                   outputs.scores, outputs.valid, scratch.get());
    });
  }
};

REGISTER_KERNEL_BUILDER(Name("MrcnnGenerateProposals").Device(DEVICE_CPU), CpuGenerateProposalsOp);

#ifdef MRCNN_HAVE_CUDA
class CudaGenerateProposalsOp : public GenerateProposalsOp {
  using GenerateProposalsOp::GenerateProposalsOp;

  void run(OpKernelContext* context, const ProposalParams& params, const ProposalInputs& inputs,
           const ProposalOutputs& outputs) override {
    OP_REQUIRES_OK(context,
                   check_candidates("pre_nms_top_k (or the anchors of a level)", max_level_candidates(params)));
    Scratch scratch;
    OP_REQUIRES_OK(context, scratch.allocate(context, cuda::scratch_bytes(params)));
    OP_REQUIRES_OK(context,
                   cuda_status(cuda::generate_proposals(params, inputs, outputs, scratch.data(), stream_of(context))));
  }
};

// level_sizes decides what is launched, so it must be in host memory.
REGISTER_KERNEL_BUILDER(Name("MrcnnGenerateProposals").Device(DEVICE_GPU).HostMemory("level_sizes"),
                        CudaGenerateProposalsOp);
#endif

}  // namespace mrcnn
