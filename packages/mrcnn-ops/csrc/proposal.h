// From RPN outputs to proposals (Faster R-CNN section 3, over the levels of FPN section 4.1): per image and level
// select by logit, decode, clip, drop, NMS; per image the best over levels. Parameters, and the rules for one anchor.
#pragma once

#include "box.h"
#include "host_device.h"

namespace mrcnn {

constexpr int kMaxProposalLevels = 32;

struct ProposalParams {
  int num_images;
  int num_anchors;
  int num_levels;
  int level_begin[kMaxProposalLevels + 1];  // where a level's anchors begin; entry num_levels is num_anchors
  int pre_nms_top_k;                        // per level
  int post_nms_top_k;                       // per level
  int num_proposals;                        // per image
  float nms_threshold;
  float min_size;
  float max_log_scale;
  bool keep_empty;
  bool keep_padding_anchors;
};

struct ProposalInputs {
  const float* logits;     // [N, A]
  const float* deltas;     // [N, A, 4]
  const Box* anchors;      // [A]
  const int* image_sizes;  // [N, 2], (h, w)
};

struct ProposalOutputs {  // each [N, num_proposals]
  Box* boxes;
  float* scores;
  bool* valid;
};

// The most anchors that are selected in a level, at least 1.
MRCNN_HD static inline int max_level_candidates(const ProposalParams& params) {
  int longest = 0;
  for (int level = 0; level < params.num_levels; ++level) {
    const int length = params.level_begin[level + 1] - params.level_begin[level];
    longest = length > longest ? length : longest;
  }
  const int candidates = longest < params.pre_nms_top_k ? longest : params.pre_nms_top_k;
  return candidates > 1 ? candidates : 1;
}

// The most proposals a level can give.
MRCNN_HD static inline int max_level_proposals(const ProposalParams& params) {
  const int candidates = max_level_candidates(params);
  return candidates < params.post_nms_top_k ? candidates : params.post_nms_top_k;
}

// Whether an anchor takes part in the selection by logit. height and width are the valid image's.
MRCNN_HD static inline bool may_propose(const ProposalParams& params, float logit, const Box& anchor, float height,
                                        float width) {
  if (!is_finite(logit)) return false;
  if (params.keep_padding_anchors) return true;
  return 0.5f * (anchor.x1 + anchor.x2) < width && 0.5f * (anchor.y1 + anchor.y2) < height;
}

// The proposal of an anchor, unless it is dropped.
MRCNN_HD static inline bool propose(const ProposalParams& params, const Box& anchor, const float* delta, float height,
                                    float width, Box* proposal) {
  const Box decoded = decode(anchor, delta, params.max_log_scale);
  if (!is_finite(decoded)) return false;  // before clipping, which would turn infinity into an edge
  *proposal = clip(decoded, height, width);
  const float box_width = proposal->x2 - proposal->x1;
  const float box_height = proposal->y2 - proposal->y1;
  if (!params.keep_empty && !(box_width > 0.0f && box_height > 0.0f)) return false;
  return box_width >= params.min_size && box_height >= params.min_size;
}

}  // namespace mrcnn
