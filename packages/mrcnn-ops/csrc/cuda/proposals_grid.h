// From RPN outputs to proposals as a grid.
//
// N images, A anchors over all levels, L levels, R proposals per image.
#pragma once

#include "../proposal.h"
#include "nms_grid.h"

namespace mrcnn {

// What an anchor is selected by: the order of its logit, and 0 where it takes no part.
struct FillOrders {
  ProposalParams params;
  ProposalInputs inputs;
  uint32_t* orders;  // [N, A]

  MRCNN_HD void operator()(int64_t i) const {
    const int64_t image = i / params.num_anchors;
    const float height = static_cast<float>(inputs.image_sizes[2 * image]);
    const float width = static_cast<float>(inputs.image_sizes[2 * image + 1]);
    const float logit = inputs.logits[i];
    const bool takes_part = may_propose(params, logit, inputs.anchors[i - image * params.num_anchors], height, width);
    orders[i] = takes_part ? order_of(logit) : 0u;
  }
};

// The best of a level, in any order: a block per image and level finds, digit by digit from the highest, the rank of
// the last one that is selected. Usually two or three of the six digits are enough, because then all ranks that share
// the digits so far are selected. The digits of the index decide ties of logits.
struct SelectTop {
  static constexpr int kThreads = 1024;
  static constexpr int kDigits = 6;
  static constexpr int kBins = 2048;
  static constexpr int kBinsPerGroup = 32;
  static constexpr int kGroups = kBins / kBinsPerGroup;

  ProposalParams params;
  const uint32_t* orders;  // [N, A]
  NmsBatch batch;
  int64_t first_unit;

  struct Search {
    Ranked prefix;  // the digits found so far
    Ranked mask;    // where they are
    int wanted;     // of the ranks that share them
    int done;
    int num_selected;
  };

  struct Shared {
    int* bins;    // [kBins], how many ranks have this digit
    int* groups;  // [kGroups], sums of kBinsPerGroup bins
    Search* search;

    MRCNN_HD explicit Shared(Divider* memory)
        : bins(memory->take<int>(kBins)), groups(memory->take<int>(kGroups)), search(memory->take<Search>(1)) {}
  };

  size_t shared_bytes() const {
    Divider divider(nullptr);
    Shared shared(&divider);
    return divider.used();
  }

  // 11 + 11 + 10 bits of the logit's order, then of the index.
  MRCNN_HD static int digit_shift(int digit) {
    const int within = digit % 3;
    return (digit < 3 ? 32 : 0) + (within == 0 ? 21 : within == 1 ? 10 : 0);
  }
  MRCNN_HD static Ranked digit_mask(int digit) { return digit % 3 == 2 ? 1023 : 2047; }

  MRCNN_HD void choose_digit(const Shared& shared, int digit) const {
    Search& search = *shared.search;
    if (digit == 0) {
      int all = 0;
      for (int group = 0; group < kGroups; ++group) all += shared.groups[group];
      search.done = all <= search.wanted;
      if (search.done) return;
    }
    int better = 0;
    int group = kGroups - 1;
    while (better + shared.groups[group] < search.wanted) better += shared.groups[group--];
    int bin = group * kBinsPerGroup + kBinsPerGroup - 1;
    while (better + shared.bins[bin] < search.wanted) better += shared.bins[bin--];
    search.wanted -= better;
    search.prefix |= static_cast<Ranked>(bin) << digit_shift(digit);
    search.mask |= digit_mask(digit) << digit_shift(digit);
    search.done = shared.bins[bin] == search.wanted;
  }

  template <class Block>
  MRCNN_HD void operator()(Block& block, int64_t unit) const {
    const int64_t image = (first_unit + unit) / params.num_levels;
    const int level = static_cast<int>((first_unit + unit) % params.num_levels);
    const int begin = params.level_begin[level];
    const int end = params.level_begin[level + 1];
    const uint32_t* image_orders = orders + image * params.num_anchors;
    Ranked* selected = batch.ranked + unit * batch.candidates;
    Divider memory(block.shared_memory());
    const Shared shared(&memory);

    block.for_each_thread([&](int thread) {
      if (thread == 0) *shared.search = {0, 0, params.pre_nms_top_k, 0, 0};
    });

    for (int digit = 0; digit < kDigits; ++digit) {
      block.for_each_thread([&](int thread) {
        for (int bin = thread; bin < kBins; bin += kThreads) shared.bins[bin] = 0;
      });
      block.for_each_thread([&](int thread) {
        const Ranked prefix = shared.search->prefix;
        const Ranked mask = shared.search->mask;
        for (int a = begin + thread; a < end; a += kThreads) {
          const uint32_t order = image_orders[a];
          if (order == 0) continue;
          const Ranked ranked = rank_of_order(order, static_cast<uint32_t>(a));
          if ((ranked & mask) != prefix) continue;
          atomic_add(shared.bins + (ranked >> digit_shift(digit) & digit_mask(digit)), 1);
        }
      });
      block.for_each_thread([&](int thread) {
        if (thread >= kGroups) return;
        int sum = 0;
        for (int i = 0; i < kBinsPerGroup; ++i) sum += shared.bins[thread * kBinsPerGroup + i];
        shared.groups[thread] = sum;
      });
      block.for_each_thread([&](int thread) {
        if (thread == 0) choose_digit(shared, digit);
      });
      if (block.uniform(shared.search->done)) break;
    }

    block.for_each_thread([&](int thread) {
      const Ranked prefix = shared.search->prefix;
      const Ranked mask = shared.search->mask;
      for (int a = begin + thread; a < end; a += kThreads) {
        const uint32_t order = image_orders[a];
        if (order == 0) continue;
        const Ranked ranked = rank_of_order(order, static_cast<uint32_t>(a));
        if ((ranked & mask) >= prefix) selected[atomic_add(&shared.search->num_selected, 1)] = ranked;
      }
    });
    block.for_each_thread([&](int thread) {
      for (int i = shared.search->num_selected + thread; i < batch.candidates; i += kThreads) selected[i] = 0;
    });
  }
};

// Decodes what was selected; what is dropped becomes 0.
struct DecodeSelected {
  ProposalParams params;
  ProposalInputs inputs;
  NmsBatch batch;
  int64_t first_unit;

  MRCNN_HD void operator()(int64_t i) const {
    if (batch.ranked[i] == 0) return;
    const int64_t image = (first_unit + i / batch.candidates) / params.num_levels;
    const int64_t a = index_of(batch.ranked[i]);
    const float height = static_cast<float>(inputs.image_sizes[2 * image]);
    const float width = static_cast<float>(inputs.image_sizes[2 * image + 1]);
    const float* delta = inputs.deltas + (image * params.num_anchors + a) * 4;
    if (!propose(params, inputs.anchors[a], delta, height, width, batch.boxes + i)) batch.ranked[i] = 0;
  }
};

struct WriteProposals {
  ProposalParams params;
  ProposalInputs inputs;
  KeptLists kept;
  const int* selection;  // [N, R]
  ProposalOutputs outputs;

  MRCNN_HD void operator()(int64_t i) const {
    const int64_t image = i / params.num_proposals;
    const bool valid = selection[i] >= 0;
    const int64_t entry = valid ? image * params.num_levels * kept.row + selection[i] : 0;
    outputs.boxes[i] = valid ? kept.boxes[entry] : Box{};
    outputs.scores[i] = valid ? inputs.logits[image * params.num_anchors + index_of(kept.ranked[entry])] : 0.0f;
    outputs.valid[i] = valid;
  }
};

// ---- the launches ----

struct ProposalScratch {
  uint32_t* orders;  // [N, A]
  int* selection;    // [N, R]
  NmsScratch nms;

  ProposalScratch(const ProposalParams& params, Divider* memory)
      : orders(memory->take<uint32_t>(static_cast<int64_t>(params.num_images) * params.num_anchors)),
        selection(memory->take<int>(static_cast<int64_t>(params.num_images) * params.num_proposals)),
        nms(static_cast<int64_t>(params.num_images) * params.num_levels, max_level_candidates(params),
            max_level_proposals(params), memory) {}
};

template <class Grid>
void generate_proposals_on(Grid& grid, const ProposalParams& params, const ProposalInputs& inputs,
                           const ProposalOutputs& outputs, void* memory) {
  Divider divider(memory);
  const ProposalScratch scratch(params, &divider);
  const int64_t num_images = params.num_images;
  grid.run_elements(FillOrders{params, inputs, scratch.orders}, num_images * params.num_anchors);
  nms_on(grid, scratch.nms, num_images * params.num_levels, params.nms_threshold,
         [&](const NmsBatch& batch, int64_t first_unit) {
           grid.run_blocks(SelectTop{params, scratch.orders, batch, first_unit}, batch.num_units);
           grid.run_elements(DecodeSelected{params, inputs, batch, first_unit}, batch.num_units * batch.candidates);
         });
  merge_lists_on(grid, scratch.nms.kept, num_images, params.num_levels, params.num_proposals, scratch.selection);
  grid.run_elements(WriteProposals{params, inputs, scratch.nms.kept, scratch.selection, outputs},
                    num_images * params.num_proposals);
}

}  // namespace mrcnn
