// Matching of boxes with ground truths as a grid, without a matrix of one by the other.
//
// N images, A boxes per image, G ground truths, K crowds.
#pragma once

#include "../matching.h"
#include "atomics.h"
#include "block.h"

namespace mrcnn {

// A block matches 256 boxes of one image; unit = image * blocks + block. Ground truths pass through shared memory.
struct MatchBlock {
  static constexpr int kThreads = 256;
  static constexpr int kChunk = 512;  // ground truths at a time

  MatchParams params;
  MatchInputs inputs;
  MatchOutputs outputs;
  float* gt_best_iou;  // [N, G], zeros at first: the greatest IoU with one of the image's boxes

  struct Match {
    Box box;  // zeros, which overlap nothing, where it is not valid
    float area;
    float best_iou;
    int best_gt;
  };

  struct Shared {
    Box* gt_boxes;    // [kChunk]
    int* gt_valid;    // [kChunk]
    float* best_iou;  // [kChunk], over the boxes of this block

    MRCNN_HD explicit Shared(Divider* memory)
        : gt_boxes(memory->take<Box>(kChunk)),
          gt_valid(memory->take<int>(kChunk)),
          best_iou(memory->take<float>(kChunk)) {}
  };

  size_t shared_bytes() const {
    Divider divider(nullptr);
    Shared shared(&divider);
    return divider.used();
  }

  MRCNN_HD static int blocks_per_image(const MatchParams& params) {
    return static_cast<int>((static_cast<int64_t>(params.num_boxes) + kThreads - 1) / kThreads);
  }

  MRCNN_HD bool is_valid(int64_t image, int box) const {
    return inputs.boxes_valid == nullptr || inputs.boxes_valid[image * params.num_boxes + box];
  }

  MRCNN_HD void compare(const Shared& shared, int first_gt, int count, Match* match) const {
    for (int i = 0; i < count; ++i) {
      if (!shared.gt_valid[i]) continue;
      if (match->best_gt < 0) match->best_gt = first_gt + i;  // the first valid one, should nothing overlap
      const Box gt = shared.gt_boxes[i];
      const float overlap = iou(match->box, match->area, gt, area(gt));
      keep_better(overlap, first_gt + i, &match->best_iou, &match->best_gt);
      // If another thread is about to raise it, this atomic is only superfluous.
      if (overlap > shared.best_iou[i]) atomic_max(shared.best_iou + i, overlap);
    }
  }

  MRCNN_HD float crowd_overlap(int64_t image, const Match& match) const {
    float covered = 0.0f;
    for (int crowd = 0; crowd < params.num_crowds; ++crowd) {
      const Box box = inputs.crowd_boxes[image * params.num_crowds + crowd];
      const float part = share(intersection(match.box, box), match.area);
      covered = part > covered ? part : covered;
    }
    return covered;
  }

  template <class Block>
  MRCNN_HD void operator()(Block& block, int64_t unit) const {
    const int64_t image = unit / blocks_per_image(params);
    const int first_box = static_cast<int>(unit % blocks_per_image(params)) * kThreads;
    Divider memory(block.shared_memory());
    const Shared shared(&memory);
    typename Block::template PerThread<Match, kThreads> matches;

    block.for_each_thread([&](int thread) {
      const int box = first_box + thread;
      Match& match = matches[thread];
      const bool valid = box < params.num_boxes && is_valid(image, box);
      match.box = valid ? inputs.boxes[(params.boxes_are_shared ? 0 : image * params.num_boxes) + box] : Box{};
      match.area = area(match.box);
      match.best_iou = 0.0f;
      match.best_gt = -1;
    });

    for (int first = 0; first < params.num_gt; first += kChunk) {
      const int count = params.num_gt - first < kChunk ? params.num_gt - first : kChunk;
      const int64_t row = image * params.num_gt + first;
      block.for_each_thread([&](int thread) {
        for (int i = thread; i < count; i += kThreads) {
          shared.gt_boxes[i] = inputs.gt_boxes[row + i];
          shared.gt_valid[i] = inputs.gt_valid[row + i];
          shared.best_iou[i] = 0.0f;
        }
      });
      block.for_each_thread([&](int thread) { compare(shared, first, count, &matches[thread]); });
      block.for_each_thread([&](int thread) {
        for (int i = thread; i < count; i += kThreads) {
          if (shared.best_iou[i] > 0.0f) atomic_max(gt_best_iou + row + i, shared.best_iou[i]);
        }
      });
    }

    block.for_each_thread([&](int thread) {
      const int box = first_box + thread;
      if (box >= params.num_boxes) return;
      const Match& match = matches[thread];
      const int64_t out = image * params.num_boxes + box;
      outputs.best_iou[out] = match.best_iou;
      outputs.best_gt[out] = is_valid(image, box) ? match.best_gt : -1;
      outputs.crowd_overlap[out] = crowd_overlap(image, match);
    });
  }
};

// Whether a box has the greatest IoU of some ground truth. IoUs are computed a second time, by the same code, so they
// may be compared for equality; only for ground truths whose greatest IoU is not above this box's own.
struct MarkBest {
  MatchParams params;
  MatchInputs inputs;
  const float* best_iou;     // [N, A]
  const float* gt_best_iou;  // [N, G]
  bool* is_best_for_gt;      // [N, A]

  MRCNN_HD void operator()(int64_t i) const {
    const int64_t image = i / params.num_boxes;
    const float own_best = best_iou[i];
    bool is_best = false;
    if (own_best > 0.0f) {
      const Box box = inputs.boxes[params.boxes_are_shared ? i - image * params.num_boxes : i];
      const float box_area = area(box);
      for (int gt = 0; gt < params.num_gt && !is_best; ++gt) {
        const float greatest = gt_best_iou[image * params.num_gt + gt];
        if (!(greatest > 0.0f) || greatest > own_best) continue;
        const Box gt_box = inputs.gt_boxes[image * params.num_gt + gt];
        is_best = iou(box, box_area, gt_box, area(gt_box)) == greatest;
      }
    }
    is_best_for_gt[i] = is_best;
  }
};

// ---- the launches ----

struct MatchScratch {
  float* gt_best_iou;

  MatchScratch(const MatchParams& params, Divider* memory)
      : gt_best_iou(memory->take<float>(static_cast<int64_t>(params.num_images) * params.num_gt)) {}
};

template <class Grid>
void match_boxes_on(Grid& grid, const MatchParams& params, const MatchInputs& inputs, const MatchOutputs& outputs,
                    void* memory) {
  Divider divider(memory);
  const MatchScratch scratch(params, &divider);
  const int64_t num_images = params.num_images;
  grid.fill(scratch.gt_best_iou, 0, num_images * params.num_gt * sizeof(float));
  grid.run_blocks(MatchBlock{params, inputs, outputs, scratch.gt_best_iou},
                  num_images * MatchBlock::blocks_per_image(params));
  grid.run_elements(MarkBest{params, inputs, outputs.best_iou, scratch.gt_best_iou, outputs.is_best_for_gt},
                    num_images * params.num_boxes);
}

}  // namespace mrcnn
