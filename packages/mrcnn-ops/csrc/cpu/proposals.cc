#include "proposals.h"

#include <algorithm>

#include "kernels.h"
#include "ranking.h"

namespace mrcnn {

namespace {

struct Scratch {
  Ranked* ranked;
  Box* boxes;
  float* scores;
  int* kept;
  float* nms;
};

Scratch divide_scratch(const ProposalParams& params, void* memory) {
  const size_t candidates = max_level_candidates(params);
  Scratch scratch;
  scratch.ranked = static_cast<Ranked*>(memory);
  scratch.boxes = reinterpret_cast<Box*>(scratch.ranked + StreamingTop::capacity(candidates));
  scratch.scores = reinterpret_cast<float*>(scratch.boxes + candidates);
  scratch.kept = reinterpret_cast<int*>(scratch.scores + candidates);
  scratch.nms = reinterpret_cast<float*>(scratch.kept + candidates);
  return scratch;
}

}  // namespace

size_t proposals_scratch_bytes(const ProposalParams& params) {
  const size_t candidates = max_level_candidates(params);
  const size_t level = StreamingTop::capacity(candidates) * sizeof(Ranked) +
                       candidates * (sizeof(Box) + sizeof(float) + sizeof(int)) +
                       nms_scratch_floats(max_level_proposals(params)) * sizeof(float);
  const size_t merge = static_cast<size_t>(params.num_levels) * max_level_proposals(params) * sizeof(Ranked);
  return std::max(level, merge);
}

void propose_per_level(const ProposalParams& params, const float* logits, const float* deltas, const Box* anchors,
                       const int* image_sizes, int64_t begin, int64_t end, Box* level_boxes, float* level_scores,
                       int* level_counts, void* memory) {
  const Scratch scratch = divide_scratch(params, memory);
  const int row = max_level_proposals(params);

  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t image = unit / params.num_levels;
    const int level = static_cast<int>(unit % params.num_levels);
    const float height = static_cast<float>(image_sizes[2 * image]);
    const float width = static_cast<float>(image_sizes[2 * image + 1]);
    const float* image_logits = logits + image * params.num_anchors;
    const float* image_deltas = deltas + image * params.num_anchors * 4;

    StreamingTop top(scratch.ranked, std::min(max_level_candidates(params), params.pre_nms_top_k));
    for (int a = params.level_begin[level]; a < params.level_begin[level + 1]; ++a) {
      if (!top.may_enter(image_logits[a]) || !may_propose(params, image_logits[a], anchors[a], height, width)) continue;
      top.push(image_logits[a], static_cast<uint32_t>(a));
    }
    const int num_selected = top.finish();

    int num_candidates = 0;
    for (int i = 0; i < num_selected; ++i) {
      const int64_t a = index_of(scratch.ranked[i]);
      if (!propose(params, anchors[a], image_deltas + 4 * a, height, width, &scratch.boxes[num_candidates])) continue;
      scratch.scores[num_candidates++] = image_logits[a];
    }

    const int num_kept =
        kernels().nms(scratch.boxes, num_candidates, params.nms_threshold, row, scratch.nms, scratch.kept);
    for (int i = 0; i < num_kept; ++i) {
      level_boxes[unit * row + i] = scratch.boxes[scratch.kept[i]];
      level_scores[unit * row + i] = scratch.scores[scratch.kept[i]];
    }
    level_counts[unit] = num_kept;
  }
}

void merge_levels(const ProposalParams& params, const Box* level_boxes, const float* level_scores,
                  const int* level_counts, int64_t begin, int64_t end, Box* boxes, float* scores, bool* valid,
                  void* memory) {
  Ranked* ranked = static_cast<Ranked*>(memory);
  const int row = max_level_proposals(params);
  const int wanted = params.num_proposals;

  for (int64_t image = begin; image < end; ++image) {
    const int64_t first = image * params.num_levels * row;
    int count = 0;
    for (int level = 0; level < params.num_levels; ++level) {
      for (int i = 0; i < level_counts[image * params.num_levels + level]; ++i) {
        const int position = level * row + i;
        ranked[count++] = rank(level_scores[first + position], static_cast<uint32_t>(position));
      }
    }
    count = sort_best(ranked, count, wanted);
    for (int i = 0; i < wanted; ++i) {
      const int64_t out = image * wanted + i;
      const int64_t source = i < count ? first + index_of(ranked[i]) : 0;
      boxes[out] = i < count ? level_boxes[source] : Box{};
      scores[out] = i < count ? level_scores[source] : 0.0f;
      valid[out] = i < count;
    }
  }
}

}  // namespace mrcnn
