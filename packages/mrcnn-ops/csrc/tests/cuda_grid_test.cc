// Runs the blocks and elements of the CUDA kernels on the host, over the whole launch grid, and compares with the CPU
// kernels. What this cannot test is the GPU: real barriers, atomics that meet, and its arithmetic (bench/gpu_check).
#include <cstdlib>
#include <memory>

#include "../cuda/host_grid.h"
#include "grid_checks.h"

namespace mrcnn {
namespace {

class HostMachine {
 public:
  explicit HostMachine(ThreadOrder order) : order_(order) {}

  // Aligned like device memory, so that whole vectors of channels are read; not a byte longer than necessary, so that a
  // sanitizer sees any access beyond the end; filled with arbitrary values at first.
  template <class T>
  class Array {
   public:
    explicit Array(size_t count) : count_(count), memory_(nullptr, free) {
      void* memory = nullptr;
      if (posix_memalign(&memory, 64, count * sizeof(T)) != 0) abort();
      memory_.reset(memory);
      memset(memory, 0xa5, count * sizeof(T));
    }
    T* data() const { return static_cast<T*>(memory_.get()); }
    size_t size() const { return count_; }

   private:
    size_t count_;
    std::unique_ptr<void, void (*)(void*)> memory_;
  };

  template <class T>
  Array<T> allocate(size_t count) {
    return Array<T>(count);
  }

  template <class T>
  Array<T> upload(const std::vector<T>& values) {
    Array<T> array(values.size());
    if (!values.empty()) memcpy(static_cast<void*>(array.data()), values.data(), values.size() * sizeof(T));
    return array;
  }

  template <class T>
  std::vector<T> download(const Array<T>& array) {
    return std::vector<T>(array.data(), array.data() + array.size());
  }

  template <class T>
  void roi_align_forward(const RoiAlignParams& params, const T* const* features, const Box* boxes, T* output) {
    HostGrid grid(order_);
    roi_align_forward_on(grid, params, features, boxes, output);
  }

  template <class T>
  void roi_align_backward(const RoiAlignParams& params, bool deterministic, const T* gradient, const Box* boxes,
                          T* const* feature_gradients) {
    HostGrid grid(order_);
    Array<char> scratch(roi_align_backward_scratch_bytes<T>(params, deterministic));
    roi_align_backward_on(grid, params, deterministic, gradient, boxes, feature_gradients, scratch.data());
  }

  void generate_proposals(const ProposalParams& params, const ProposalInputs& inputs, const ProposalOutputs& outputs) {
    HostGrid grid(order_);
    generate_proposals_on(grid, params, inputs, outputs, scratch<ProposalScratch>(params));
  }

  void match_boxes(const MatchParams& params, const MatchInputs& inputs, const MatchOutputs& outputs) {
    HostGrid grid(order_);
    match_boxes_on(grid, params, inputs, outputs, scratch<MatchScratch>(params));
  }

  void multiclass_nms(const DetectionParams& params, const DetectionInputs& inputs, const Detections& detections) {
    HostGrid grid(order_);
    multiclass_nms_on(grid, params, inputs, detections, scratch<DetectionScratch>(params));
  }

  template <class T>
  void fold(const FoldShape& shape, const float* kernel, const BatchNorm& norm, const FoldOutputs<T>& outputs) {
    HostGrid grid(order_);
    fold_on(grid, shape, kernel, norm, outputs);
  }

  template <class T>
  void fold_backward(const FoldShape& shape, const FoldGradientInputs<T>& inputs, const BatchNorm& norm,
                     const FoldGradients& gradients) {
    HostGrid grid(order_);
    Array<char> scratch(fold_backward_scratch_bytes(shape));
    fold_backward_on(grid, shape, inputs, norm, gradients, scratch.data());
  }

  template <class T>
  void group_norm(const GroupNormShape& shape, const T* x, const float* gamma, const float* beta, T* y,
                  const GroupStatistics& statistics) {
    HostGrid grid(order_);
    group_norm_on(grid, shape, x, gamma, beta, y, statistics, scratch<GroupNormScratch>(shape));
  }

  template <class T>
  void group_norm_backward(const GroupNormShape& shape, const NormInputs<T>& inputs, T* dx, float* dgamma,
                           float* dbeta) {
    HostGrid grid(order_);
    group_norm_backward_on(grid, shape, inputs, dx, dgamma, dbeta, scratch<GroupNormScratch>(shape));
  }

  void gradient_norm(const SgdVariable* variables, int num_variables, const float* scale, float* norm) {
    HostGrid grid(order_);
    Array<char> scratch(gradient_norm_scratch_bytes(variables, num_variables));
    gradient_norm_on(grid, variables, num_variables, scale, norm, scratch.data());
  }

  void sgd(const SgdVariable* variables, int num_variables, const SgdNumbers& numbers) {
    HostGrid grid(order_);
    sgd_on(grid, variables, num_variables, numbers);
  }

 private:
  template <class Scratch, class Params>
  void* scratch(const Params& params) {
    Divider divider(nullptr);
    Scratch(params, &divider);
    scratch_ = Array<char>(divider.used());
    return scratch_.data();
  }

  ThreadOrder order_;
  Array<char> scratch_ = Array<char>(0);
};

// Without a special attribute, a kernel may ask for 48 KB.
void check_shared_memory(Report& report) {
  NmsBatch batch = {};
  batch.candidates = kMostNmsCandidates;
  const size_t bytes = KeepBest{batch, {}}.shared_bytes();
  report.line("shared memory of NMS", bytes <= (48 << 10), std::to_string(bytes) + " bytes");
}

}  // namespace
}  // namespace mrcnn

int main() {
  mrcnn::Report report;
  mrcnn::check_shared_memory(report);
  const std::pair<const char*, mrcnn::ThreadOrder> orders[] = {{"ascending", mrcnn::ThreadOrder::kAscending},
                                                               {"descending", mrcnn::ThreadOrder::kDescending},
                                                               {"shuffled", mrcnn::ThreadOrder::kShuffled}};
  for (const auto& [name, order] : orders) {
    std::printf("threads in %s order\n", name);
    mrcnn::HostMachine machine(order);
    mrcnn::check_everything(machine, report);
  }
  std::printf("%d passed, %d failed\n", report.num_passed(), report.num_failed());
  return report.num_failed() == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
