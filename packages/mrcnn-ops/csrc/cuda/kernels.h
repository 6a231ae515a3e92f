// The CUDA kernels, for callers that see no CUDA: pointers are to dense row-major arrays in the device's memory, work
// is put into a stream and nothing waits for it, scratch is passed in, nothing is copied to the host. Results equal the
// CPU kernels'. A function returns 0 or an error number (cudaError_t), whose text is error_text().
//
// The device of the stream must be current. Scratch must be aligned to 16 bytes.
#pragma once

#include <cstddef>

#include "batch_norm_grid.h"
#include "detections_grid.h"
#include "group_norm_grid.h"
#include "matching_grid.h"
#include "proposals_grid.h"
#include "roi_align_grid.h"
#include "sgd_grid.h"

struct CUstream_st;

namespace mrcnn {
namespace cuda {

using Stream = CUstream_st*;  // cudaStream_t

const char* error_text(int error);

// T: float, Half, BFloat16. `features` and `feature_gradients` are arrays of the host with one pointer for each level.
template <class T>
int roi_align_forward(const RoiAlignParams& params, const T* const* features, const Box* boxes, T* output,
                      Stream stream);

// deterministic: the same bits every time, those of the CPU kernel; otherwise sums are made with atomics.
// Scratch: roi_align_backward_scratch_bytes<T>(params, deterministic).
template <class T>
int roi_align_backward(const RoiAlignParams& params, bool deterministic, const T* gradient, const Box* boxes,
                       T* const* feature_gradients, void* scratch, Stream stream);

int generate_proposals(const ProposalParams& params, const ProposalInputs& inputs, const ProposalOutputs& outputs,
                       void* scratch, Stream stream);

int match_boxes(const MatchParams& params, const MatchInputs& inputs, const MatchOutputs& outputs, void* scratch,
                Stream stream);

int multiclass_nms(const DetectionParams& params, const DetectionInputs& inputs, const Detections& detections,
                   void* scratch, Stream stream);

// T: float, Half, BFloat16, the type of the folded kernel.
template <class T>
int fold_batch_norm(const FoldShape& shape, const float* kernel, const BatchNorm& norm, const FoldOutputs<T>& outputs,
                    Stream stream);

// Scratch: fold_backward_scratch_bytes(shape).
template <class T>
int fold_batch_norm_backward(const FoldShape& shape, const FoldGradientInputs<T>& inputs, const BatchNorm& norm,
                             const FoldGradients& gradients, void* scratch, Stream stream);

// T: float, Half, BFloat16. Scratch: scratch_bytes(shape).
template <class T>
int group_norm(const GroupNormShape& shape, const T* x, const float* gamma, const float* beta, T* y,
               const GroupStatistics& statistics, void* scratch, Stream stream);

template <class T>
int group_norm_backward(const GroupNormShape& shape, const NormInputs<T>& inputs, T* dx, float* dgamma, float* dbeta,
                        void* scratch, Stream stream);

// `variables` is an array of the host. Scratch: gradient_norm_scratch_bytes().
int gradient_norm(const SgdVariable* variables, int num_variables, const float* scale, float* norm, void* scratch,
                  Stream stream);

int sgd(const SgdVariable* variables, int num_variables, const SgdNumbers& numbers, Stream stream);

// Of generate_proposals, match_boxes, multiclass_nms, group_norm and its gradient.
template <class Scratch, class Params>
size_t scratch_bytes(const Params& params) {
  Divider divider(nullptr);
  Scratch(params, &divider);
  return divider.used();
}

inline size_t scratch_bytes(const ProposalParams& params) { return scratch_bytes<ProposalScratch>(params); }
inline size_t scratch_bytes(const MatchParams& params) { return scratch_bytes<MatchScratch>(params); }
inline size_t scratch_bytes(const DetectionParams& params) { return scratch_bytes<DetectionScratch>(params); }
inline size_t scratch_bytes(const GroupNormShape& shape) { return scratch_bytes<GroupNormScratch>(shape); }

}  // namespace cuda
}  // namespace mrcnn
