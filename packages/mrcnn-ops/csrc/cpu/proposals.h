// From RPN outputs to proposals on the CPU.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../proposal.h"

namespace mrcnn {

// Bytes of scratch for one running call of propose_per_level or merge_levels.
size_t proposals_scratch_bytes(const ProposalParams& params);

// Units are (image, level), image-major. logits: [N, A]; deltas: [N, A, 4]; anchors: [A]; image_sizes: [N, 2] (h, w).
// level_boxes, level_scores: [N * L, max_level_proposals]; level_counts: [N * L].
void propose_per_level(const ProposalParams& params, const float* logits, const float* deltas, const Box* anchors,
                       const int* image_sizes, int64_t begin, int64_t end, Box* level_boxes, float* level_scores,
                       int* level_counts, void* scratch);

// boxes: [N, num_proposals]; scores and valid likewise; zeros where there is no proposal. For images [begin, end).
void merge_levels(const ProposalParams& params, const Box* level_boxes, const float* level_scores,
                  const int* level_counts, int64_t begin, int64_t end, Box* boxes, float* scores, bool* valid,
                  void* scratch);

}  // namespace mrcnn
