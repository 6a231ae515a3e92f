// The kernels that are fast because of vector instructions. They exist once per instruction set; kernels() gives the
// best one for this processor. Pointers are to dense row-major arrays; scratch is passed in; nothing is allocated,
// nothing throws.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../box.h"
#include "../half.h"
#include "../roi_align.h"
#include "../sgd.h"

namespace mrcnn {

// Bytes of scratch for one running call of roi_align_forward or roi_align_backward.
size_t roi_align_scratch_bytes(const RoiAlignParams& params, int tile_edge);

template <class T>
struct RoiAlignKernels {
  // features[level]: [N, H, W, C]; boxes: [N * R]; output: [N * R, P, P, C]. Fills the outputs of boxes [begin, end).
  void (*forward)(const RoiAlignParams& params, const T* const* features, const Box* boxes, int64_t begin, int64_t end,
                  T* output, void* scratch);

  // Fills the tile's part of the feature gradients. footprints: [N * R]; order: [N * R], the box numbers of an image
  // grouped by level, ascending within it; level_begin: [N * (num_levels + 1)], positions in `order`. Contributions to
  // a pixel are added in the order of boxes and bins, whatever the tiles are, so results do not depend on the number of
  // threads.
  void (*backward)(const RoiAlignParams& params, const T* output_gradient, const Box* boxes,
                   const RoiFootprint* footprints, const int* order, const int* level_begin, const RoiTile& tile,
                   T* const* feature_gradients, void* scratch);
};

template <class T>
struct FoldKernels {
  // folded: the rows of the kernel [rows, C] times `scale` [C].
  void (*forward)(const float* kernel, const float* scale, int64_t rows, int64_t channels, T* folded);

  // The gradient of the kernel's rows, and the sums over these rows of kernel times folded_gradient: [C].
  void (*backward)(const float* kernel, const T* folded_gradient, const float* scale, int64_t rows, int64_t channels,
                   float* kernel_gradient, float* product_sums);
};

// Rows of some positions of one image, [positions, C]; scale and shift are those of its channels, [C].
template <class T>
struct GroupNormKernels {
  // The sums of each channel and of its squares: [C].
  void (*sums)(const T* x, int64_t positions, int64_t channels, float* sums, float* squares);

  void (*apply)(const T* x, const float* scale, const float* shift, bool relu, int64_t positions, int64_t channels,
                T* y);

  // The sums of each channel's dy (behind the ReLU) and of dy x: [C].
  void (*backward_sums)(const T* x, const T* dy, const float* scale, const float* shift, bool relu, int64_t positions,
                        int64_t channels, float* sums, float* products);

  // dx = dy scale + x x_scale + dx_shift.
  void (*backward_apply)(const T* x, const T* dy, const float* scale, const float* shift, bool relu,
                         const float* x_scale, const float* dx_shift, int64_t positions, int64_t channels, T* dx);
};

// One image's ground truths and crowds, as matching reads them.
struct MatchTargets {
  const Box* gt_boxes;     // [G]
  const bool* gt_valid;    // [G]
  const Box* crowd_boxes;  // [K]; an all-zero row overlaps nothing
  int num_gt;
  int num_crowds;
};

// The numbers of an update that is taken.
struct SgdStep {
  float scale;  // of the gradients
  float clip;   // of the gradients with weight decay
  float rate;
  float momentum;
};

struct Kernels {
  const char* instruction_set;

  RoiAlignKernels<float> roi_align_f32;
  RoiAlignKernels<Half> roi_align_f16;
  RoiAlignKernels<BFloat16> roi_align_bf16;

  GroupNormKernels<float> group_norm_f32;
  GroupNormKernels<Half> group_norm_f16;
  GroupNormKernels<BFloat16> group_norm_bf16;

  FoldKernels<float> fold_f32;
  FoldKernels<Half> fold_f16;
  FoldKernels<BFloat16> fold_bf16;

  // Greedy NMS over boxes sorted best first: keeps a box unless its IoU with a kept one is above the threshold. Writes
  // the positions of the kept boxes, at most max_kept, and returns how many. scratch: nms_scratch_floats(max_kept)
  // floats.
  int (*nms)(const Box* boxes, int count, float threshold, int max_kept, float* scratch, int* kept);

  // For boxes [0, count) of one image: the best ground truth of each (IoU 0 and -1 where there is none or the box is
  // not valid), the greatest share of its area within one crowd, and, for each ground truth, the greatest IoU with one
  // of these boxes. boxes_valid may be null. gt_best_iou: [G]. scratch: match_scratch_floats(G) floats.
  void (*match)(const MatchTargets& targets, const Box* boxes, const bool* boxes_valid, int64_t count, float* best_iou,
                int* best_gt, float* crowd_overlap, float* gt_best_iou, float* scratch);

  // Marks those of the same boxes whose IoU with some ground truth is the greatest over all boxes, and above 0.
  // gt_best_iou: what `match` gave for these boxes; gt_best_iou_overall: the greatest of all calls. Ground truths
  // whose best box is elsewhere cost nothing.
  void (*mark_best)(const MatchTargets& targets, const Box* boxes, const bool* boxes_valid, int64_t count,
                    const float* gt_best_iou, const float* gt_best_iou_overall, bool* is_best_for_gt);

  // The sum of the squares of scale * gradient + weight decay * value over a range of a variable.
  double (*sum_of_squares)(const SgdVariable& variable, SgdRange range, float scale);

  // Updates a range of a variable and of its momentum.
  void (*sgd)(const SgdVariable& variable, SgdRange range, const SgdStep& step);
};

inline size_t nms_scratch_floats(int max_kept) { return 5 * (static_cast<size_t>(max_kept) + 8); }

inline size_t match_scratch_floats(int num_gt) { return 8 * static_cast<size_t>(num_gt); }

template <class T>
const RoiAlignKernels<T>& roi_align_kernels(const Kernels& kernels);

template <class T>
const GroupNormKernels<T>& group_norm_kernels(const Kernels& kernels);

template <class T>
const FoldKernels<T>& fold_kernels(const Kernels& kernels);

const Kernels& kernels();

}  // namespace mrcnn
