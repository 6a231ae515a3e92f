// Greedy NMS of many lists of boxes as a grid, with results of fixed size: the lists are sorted, a matrix of bits says
// which box suppresses which later one, and one block per list walks down its rows.
//
// U lists ("units": levels, or classes, of all images), K candidates each, at most `row` kept of each.
#pragma once

#include "../box.h"
#include "../ranking.h"
#include "atomics.h"
#include "block.h"

namespace mrcnn {

constexpr int kWordBits = 64;

// Candidates of a list: its matrix of bits is then 2 GB, and the bits of a row fit into shared memory.
constexpr int kMostNmsCandidates = 1 << 17;

MRCNN_HD static inline int words_of(int count) { return (count + kWordBits - 1) / kWordBits; }

MRCNN_HD static inline int count_bits(uint64_t bits) {
#ifdef __CUDA_ARCH__
  return __popcll(bits);
#else
  return __builtin_popcountll(bits);
#endif
}

// The boxes that NMS keeps of every list, best first.
struct KeptLists {
  Ranked* ranked;  // [U, row]
  Box* boxes;      // [U, row]
  int* counts;     // [U]
  int row;
};

// Scratch for the lists that are worked on at a time.
struct NmsBatch {
  int64_t num_units;
  int candidates;         // K
  Ranked* ranked;         // [num_units, K], in any order; 0: nothing
  Box* boxes;             // [num_units, K]
  Ranked* sorted;         // [num_units, K], best first
  Box* sorted_boxes;      // [num_units, K]
  int* counts;            // [num_units], entries of `sorted`
  uint64_t* suppression;  // [num_units, words, K]: bit b of word w in row i: box i suppresses box 64 w + b
};

// Sorting by counting: the place of a candidate is the number of better ones. As many steps as comparisons of a matrix,
// but all in parallel; ranks are unique, so no two candidates get the same place.
struct SortByRank {
  NmsBatch batch;

  MRCNN_HD void operator()(int64_t i) const {
    const Ranked own = batch.ranked[i];
    if (own == 0) return;
    const int64_t unit = i / batch.candidates;
    const Ranked* list = batch.ranked + unit * batch.candidates;
    int place = 0;
    for (int other = 0; other < batch.candidates; ++other) place += list[other] > own ? 1 : 0;
    const int64_t out = unit * batch.candidates + place;
    batch.sorted[out] = own;
    batch.sorted_boxes[out] = batch.boxes[i];
    atomic_add(batch.counts + unit, 1);
  }
};

// Which of boxes [64 word, 64 word + 64) come after box `row` and are suppressed by it.
MRCNN_HD static inline uint64_t suppression_word(const Box* boxes, int count, float threshold, int row, int word) {
  const Box own = boxes[row];
  const float own_area = area(own);
  const int begin = word * kWordBits;
  const int end = count - begin < kWordBits ? count : begin + kWordBits;
  uint64_t bits = 0;
  for (int other = row < begin ? begin : row + 1; other < end; ++other) {
    const Box box = boxes[other];
    if (iou(box, area(box), own, own_area) > threshold) bits |= uint64_t{1} << (other - begin);
  }
  return bits;
}

// A block fills 64 rows of one list's matrix; unit = list * words + block of rows. The words before the diagonal are
// never read and stay as they are.
struct FillSuppression {
  static constexpr int kThreads = 256;

  NmsBatch batch;
  float threshold;

  size_t shared_bytes() const { return 0; }

  template <class Block>
  MRCNN_HD void operator()(Block& block, int64_t unit) const {
    const int words = words_of(batch.candidates);
    const int64_t list = unit / words;
    const int row_word = static_cast<int>(unit % words);
    const int count = batch.counts[list];
    const Box* boxes = batch.sorted_boxes + list * batch.candidates;
    block.for_each_thread([&](int thread) {
      const int row = row_word * kWordBits + thread % kWordBits;
      if (row >= count) return;
      for (int word = row_word + thread / kWordBits; word < words_of(count); word += kThreads / kWordBits) {
        batch.suppression[(list * words + word) * batch.candidates + row] =
            suppression_word(boxes, count, threshold, row, word);
      }
    });
  }
};

// A block walks through one list, 64 boxes at a time: the first thread decides which of them stay, then all threads
// mark the later boxes that those suppress.
struct KeepBest {
  static constexpr int kThreads = 256;
  static constexpr int kRowsPerThread = 8;

  NmsBatch batch;
  KeptLists kept;  // of this batch

  struct Shared {
    uint64_t* suppressed;  // [words], bits of boxes
    uint64_t* diagonal;    // [64], the rows of these 64 boxes, within themselves
    uint64_t* stays;       // bits of these 64 boxes
    int* num_kept;

    MRCNN_HD Shared(int candidates, Divider* memory)
        : suppressed(memory->take<uint64_t>(words_of(candidates))),
          diagonal(memory->take<uint64_t>(kWordBits)),
          stays(memory->take<uint64_t>(1)),
          num_kept(memory->take<int>(1)) {}
  };

  size_t shared_bytes() const {
    Divider divider(nullptr);
    Shared(batch.candidates, &divider);
    return divider.used();
  }

  MRCNN_HD void decide(const Shared& shared, int word, int count) const {
    uint64_t suppressed = shared.suppressed[word];
    uint64_t stays = 0;
    int num_kept = *shared.num_kept;
    for (int bit = 0; bit < kWordBits && word * kWordBits + bit < count && num_kept < kept.row; ++bit) {
      if (suppressed >> bit & 1) continue;
      stays |= uint64_t{1} << bit;
      suppressed |= shared.diagonal[bit];
      ++num_kept;
    }
    *shared.stays = stays;
    *shared.num_kept = num_kept;
  }

  template <class Block>
  MRCNN_HD void operator()(Block& block, int64_t list) const {
    const int words = words_of(batch.candidates);
    const int count = batch.counts[list];
    const uint64_t* suppression = batch.suppression + list * words * batch.candidates;
    Divider memory(block.shared_memory());
    const Shared shared(batch.candidates, &memory);

    block.for_each_thread([&](int thread) {
      for (int word = thread; word < words_of(count); word += kThreads) shared.suppressed[word] = 0;
      if (thread == 0) *shared.num_kept = 0;
    });

    int num_kept = 0;
    for (int word = 0; word < words_of(count) && num_kept < kept.row; ++word) {
      const int first = word * kWordBits;
      block.for_each_thread([&](int thread) {
        if (thread >= kWordBits) return;
        const int row = first + thread;
        shared.diagonal[thread] =
            row < count ? suppression[static_cast<int64_t>(word) * batch.candidates + row] : uint64_t{0};
      });
      block.for_each_thread([&](int thread) {
        if (thread == 0) decide(shared, word, count);
      });
      const uint64_t stays = block.uniform(*shared.stays);
      const int before = num_kept;
      num_kept = block.uniform(*shared.num_kept);

      const int words_left = words_of(count) - word - 1;
      block.for_each_thread([&](int thread) {
        if (thread < kWordBits && stays >> thread & 1) {
          const int64_t from = list * batch.candidates + first + thread;
          const int64_t to = list * kept.row + before + count_bits(stays & ((uint64_t{1} << thread) - 1));
          kept.ranked[to] = batch.sorted[from];
          kept.boxes[to] = batch.sorted_boxes[from];
        }
        for (int i = thread; i < words_left * (kWordBits / kRowsPerThread); i += kThreads) {
          const int later = word + 1 + i % words_left;
          const int bit = i / words_left * kRowsPerThread;
          const uint64_t* rows = suppression + static_cast<int64_t>(later) * batch.candidates + first + bit;
          uint64_t suppressed = 0;
          MRCNN_UNROLL
          for (int r = 0; r < kRowsPerThread; ++r) {
            if (stays >> (bit + r) & 1) suppressed |= rows[r];
          }
          if (suppressed != 0) atomic_or(shared.suppressed + later, suppressed);
        }
      });
    }
    block.for_each_thread([&](int thread) {
      if (thread == 0) kept.counts[list] = num_kept;
    });
  }
};

// The lists of an image become one, best first; at equal scores the earlier list comes first. A list is sorted already,
// so the place of an entry is the sum of what binary searches find.
struct MergeLists {
  KeptLists kept;
  int lists_per_image;
  int wanted;      // per image
  int* selection;  // [N, wanted]: list * row + place in it

  // Entries of a list that come before one of this order.
  MRCNN_HD int entries_before(int64_t list, uint32_t order, bool equal_ones_too) const {
    int low = 0, high = kept.counts[list];
    while (low < high) {
      const int middle = low + (high - low) / 2;
      const uint32_t other = order_of_rank(kept.ranked[list * kept.row + middle]);
      if (other > order || (equal_ones_too && other == order)) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }

  MRCNN_HD void operator()(int64_t i) const {
    const int64_t list = i / kept.row;
    const int place_in_list = static_cast<int>(i % kept.row);
    if (place_in_list >= kept.counts[list]) return;
    const int64_t image = list / lists_per_image;
    const uint32_t order = order_of_rank(kept.ranked[i]);
    int64_t place = place_in_list;
    for (int64_t other = image * lists_per_image; other < (image + 1) * lists_per_image && place < wanted; ++other) {
      if (other != list) place += entries_before(other, order, other < list);
    }
    if (place >= wanted) return;
    selection[image * wanted + place] = static_cast<int>(i - image * lists_per_image * kept.row);
  }
};

// ---- the launches ----

struct NmsScratch {
  NmsBatch batch;
  KeptLists kept;

  // Lists are worked on in batches, so that the scratch of thousands of classes stays small.
  static constexpr int64_t kBatchBytes = int64_t{64} << 20;

  NmsScratch(int64_t num_units, int candidates, int row, Divider* memory) : batch(), kept() {
    const int64_t words = words_of(candidates);
    const int64_t unit_bytes = candidates * (2 * sizeof(Ranked) + 2 * sizeof(Box) + words * sizeof(uint64_t));
    const int64_t most = unit_bytes > 0 && kBatchBytes / unit_bytes > 1 ? kBatchBytes / unit_bytes : 1;
    batch.num_units = num_units < most ? num_units : most;
    batch.candidates = candidates;
    batch.ranked = memory->take<Ranked>(batch.num_units * candidates);
    batch.boxes = memory->take<Box>(batch.num_units * candidates);
    batch.sorted = memory->take<Ranked>(batch.num_units * candidates);
    batch.sorted_boxes = memory->take<Box>(batch.num_units * candidates);
    batch.counts = memory->take<int>(batch.num_units);
    batch.suppression = memory->take<uint64_t>(batch.num_units * words * candidates);
    kept.ranked = memory->take<Ranked>(num_units * row);
    kept.boxes = memory->take<Box>(num_units * row);
    kept.counts = memory->take<int>(num_units);
    kept.row = row;
  }
};

// fill(batch, first_unit) launches what fills ranked and boxes of batch.num_units lists from first_unit on.
template <class Grid, class Fill>
void nms_on(Grid& grid, const NmsScratch& scratch, int64_t num_units, float threshold, const Fill& fill) {
  for (int64_t first = 0; first < num_units; first += scratch.batch.num_units) {
    NmsBatch batch = scratch.batch;
    batch.num_units = num_units - first < batch.num_units ? num_units - first : batch.num_units;
    const KeptLists kept = {scratch.kept.ranked + first * scratch.kept.row,
                            scratch.kept.boxes + first * scratch.kept.row, scratch.kept.counts + first,
                            scratch.kept.row};
    grid.fill(batch.counts, 0, batch.num_units * sizeof(int));
    fill(batch, first);
    grid.run_elements(SortByRank{batch}, batch.num_units * batch.candidates);
    grid.run_blocks(FillSuppression{batch, threshold}, batch.num_units * words_of(batch.candidates));
    grid.run_blocks(KeepBest{batch, kept}, batch.num_units);
  }
}

template <class Grid>
void merge_lists_on(Grid& grid, const KeptLists& kept, int64_t num_images, int lists_per_image, int wanted,
                    int* selection) {
  grid.fill(selection, 0xff, num_images * wanted * sizeof(int));  // -1: nothing
  grid.run_elements(MergeLists{kept, lists_per_image, wanted, selection}, num_images * lists_per_image * kept.row);
}

}  // namespace mrcnn
