// Runs every CUDA kernel of mrcnn-ops on this machine's GPU: first compares its results with the CPU kernels, on random
// and edge inputs (one line per check), then compares its time with that of the memory traffic that no implementation
// can avoid, at the bandwidth that a copy reaches in the same run. Exits with 0 if all checks pass, 1 if not, 2 without
// a GPU.
//
// Does not use TensorFlow. Built and run by gpu_check.py.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "cuda/kernels.h"
#include "full_size.h"
#include "tests/grid_checks.h"

namespace mrcnn {
namespace {

void require(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "gpu_check: %s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}

void require(int error, const char* what) { require(static_cast<cudaError_t>(error), what); }

// Memory of the GPU; at first filled with anything.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t count) : count_(count) {
    require(cudaMalloc(&memory_, count * sizeof(T) + 1), "cudaMalloc");
    require(cudaMemset(memory_, 0xa5, count * sizeof(T)), "cudaMemset");
    require(cudaDeviceSynchronize(), "cudaMemset");
  }
  DeviceArray(DeviceArray&& other) : count_(other.count_), memory_(other.memory_) { other.memory_ = nullptr; }
  DeviceArray(const DeviceArray&) = delete;
  ~DeviceArray() { cudaFree(memory_); }

  T* data() const { return static_cast<T*>(memory_); }
  size_t size() const { return count_; }

 private:
  size_t count_;
  void* memory_ = nullptr;
};

// Runs the kernels in one stream; the check functions wait for each of them.
class GpuMachine {
 public:
  GpuMachine() { require(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate"); }
  ~GpuMachine() { cudaStreamDestroy(stream_); }

  template <class T>
  DeviceArray<T> allocate(size_t count) {
    return DeviceArray<T>(count);
  }

  template <class T>
  DeviceArray<T> upload(const std::vector<T>& values) {
    DeviceArray<T> array(values.size());
    require(cudaMemcpy(array.data(), values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice), "upload");
    return array;
  }

  template <class T>
  std::vector<T> download(const DeviceArray<T>& array) {
    std::vector<T> values(array.size());
    require(cudaMemcpy(values.data(), array.data(), array.size() * sizeof(T), cudaMemcpyDeviceToHost), "download");
    return values;
  }

  template <class T>
  void roi_align_forward(const RoiAlignParams& params, const T* const* features, const Box* boxes, T* output) {
    require(cuda::roi_align_forward(params, features, boxes, output, stream_), "roi_align_forward");
    wait("roi_align_forward");
  }

  template <class T>
  void roi_align_backward(const RoiAlignParams& params, bool deterministic, const T* gradient, const Box* boxes,
                          T* const* feature_gradients) {
    const DeviceArray<char> scratch(roi_align_backward_scratch_bytes<T>(params, deterministic));
    require(
        cuda::roi_align_backward(params, deterministic, gradient, boxes, feature_gradients, scratch.data(), stream_),
        "roi_align_backward");
    wait("roi_align_backward");
  }

  void generate_proposals(const ProposalParams& params, const ProposalInputs& inputs, const ProposalOutputs& outputs) {
    const DeviceArray<char> scratch(cuda::scratch_bytes(params));
    require(cuda::generate_proposals(params, inputs, outputs, scratch.data(), stream_), "generate_proposals");
    wait("generate_proposals");
  }

  void match_boxes(const MatchParams& params, const MatchInputs& inputs, const MatchOutputs& outputs) {
    const DeviceArray<char> scratch(cuda::scratch_bytes(params));
    require(cuda::match_boxes(params, inputs, outputs, scratch.data(), stream_), "match_boxes");
    wait("match_boxes");
  }

  void multiclass_nms(const DetectionParams& params, const DetectionInputs& inputs, const Detections& detections) {
    const DeviceArray<char> scratch(cuda::scratch_bytes(params));
    require(cuda::multiclass_nms(params, inputs, detections, scratch.data(), stream_), "multiclass_nms");
    wait("multiclass_nms");
  }

  template <class T>
  void fold(const FoldShape& shape, const float* kernel, const BatchNorm& norm, const FoldOutputs<T>& outputs) {
    require(cuda::fold_batch_norm(shape, kernel, norm, outputs, stream_), "fold_batch_norm");
    wait("fold_batch_norm");
  }

  template <class T>
  void fold_backward(const FoldShape& shape, const FoldGradientInputs<T>& inputs, const BatchNorm& norm,
                     const FoldGradients& gradients) {
    const DeviceArray<char> scratch(fold_backward_scratch_bytes(shape));
    require(cuda::fold_batch_norm_backward(shape, inputs, norm, gradients, scratch.data(), stream_),
            "fold_batch_norm_backward");
    wait("fold_batch_norm_backward");
  }

  template <class T>
  void group_norm(const GroupNormShape& shape, const T* x, const float* gamma, const float* beta, T* y,
                  const GroupStatistics& statistics) {
    const DeviceArray<char> scratch(cuda::scratch_bytes(shape));
    require(cuda::group_norm(shape, x, gamma, beta, y, statistics, scratch.data(), stream_), "group_norm");
    wait("group_norm");
  }

  template <class T>
  void group_norm_backward(const GroupNormShape& shape, const NormInputs<T>& inputs, T* dx, float* dgamma,
                           float* dbeta) {
    const DeviceArray<char> scratch(cuda::scratch_bytes(shape));
    require(cuda::group_norm_backward(shape, inputs, dx, dgamma, dbeta, scratch.data(), stream_),
            "group_norm_backward");
    wait("group_norm_backward");
  }

  void gradient_norm(const SgdVariable* variables, int num_variables, const float* scale, float* norm) {
    const DeviceArray<char> scratch(gradient_norm_scratch_bytes(variables, num_variables));
    require(cuda::gradient_norm(variables, num_variables, scale, norm, scratch.data(), stream_), "gradient_norm");
    wait("gradient_norm");
  }

  void sgd(const SgdVariable* variables, int num_variables, const SgdNumbers& numbers) {
    require(cuda::sgd(variables, num_variables, numbers, stream_), "sgd");
    wait("sgd");
  }

  // Median time of `launch` over 20 runs after 3, in milliseconds.
  template <class Launch>
  double milliseconds(const Launch& launch) {
    cudaEvent_t begin, end;
    require(cudaEventCreate(&begin), "cudaEventCreate");
    require(cudaEventCreate(&end), "cudaEventCreate");
    std::vector<float> times;
    for (int run = 0; run < 23; ++run) {
      require(cudaEventRecord(begin, stream_), "cudaEventRecord");
      launch(stream_);
      require(cudaEventRecord(end, stream_), "cudaEventRecord");
      require(cudaEventSynchronize(end), "a timed kernel");
      float time = 0.0f;
      require(cudaEventElapsedTime(&time, begin, end), "cudaEventElapsedTime");
      if (run >= 3) times.push_back(time);
    }
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
  }

 private:
  void wait(const char* what) { require(cudaStreamSynchronize(stream_), what); }

  cudaStream_t stream_;
};

// ---- times ----

class Stopwatch {
 public:
  explicit Stopwatch(GpuMachine& machine) : machine_(machine) {
    constexpr size_t kBytes = size_t{256} << 20;
    const DeviceArray<char> from(kBytes), to(kBytes);
    const double time = machine.milliseconds([&](cudaStream_t stream) {
      require(cudaMemcpyAsync(to.data(), from.data(), kBytes, cudaMemcpyDeviceToDevice, stream), "copy");
    });
    bytes_per_millisecond_ = 2.0 * kBytes / time;
    std::printf("\na copy of 256 MiB reads and writes %.0f GB/s\n", bytes_per_millisecond_ / 1e6);
    std::printf("%-58s %9s %9s %9s %6s\n", "", "MB", "floor ms", "ms", "share");
  }

  // bytes: what has to be read and written at least.
  template <class Launch>
  void time(const std::string& name, double bytes, const Launch& launch) {
    const double floor = bytes / bytes_per_millisecond_;
    const double time = machine_.milliseconds([&](cudaStream_t stream) { require(launch(stream), name.c_str()); });
    std::printf("%-58s %9.1f %9.4f %9.4f %5.0f%%\n", name.c_str(), bytes / 1e6, floor, time, 100.0 * floor / time);
  }

 private:
  GpuMachine& machine_;
  double bytes_per_millisecond_;
};

template <class T>
void time_roi_align(GpuMachine& machine, Stopwatch& stopwatch, int num_images, int num_boxes, int output_size) {
  const RoiAlignParams params = full_size_params(num_images, num_boxes, output_size);
  Random random(3);
  const auto boxes = machine.upload(random_boxes(random, num_images * num_boxes, 800.0f));
  std::vector<DeviceArray<T>> memory;
  T* maps[kMaxLevels] = {};
  double map_bytes = 0.0;
  for (int level = 0; level < 4; ++level) {
    memory.push_back(machine.allocate<T>(elements_of_map(params, level)));
    maps[level] = memory[level].data();
    map_bytes += static_cast<double>(elements_of_map(params, level)) * sizeof(T);
  }
  const auto crops = machine.allocate<T>(elements_of_output(params));
  // Maps and crops once each.
  const double bytes = map_bytes + static_cast<double>(elements_of_output(params)) * sizeof(T);
  const std::string name = std::string("ROIAlign ") + type_name<T>() + ", " + std::to_string(num_images) + " x " +
                           std::to_string(num_boxes) + " of " + std::to_string(output_size) + " x " +
                           std::to_string(output_size);
  stopwatch.time(name, bytes, [&](cudaStream_t stream) {
    return cuda::roi_align_forward<T>(params, maps, boxes.data(), crops.data(), stream);
  });
  for (const bool deterministic : {false, true}) {
    const DeviceArray<char> scratch(roi_align_backward_scratch_bytes<T>(params, deterministic));
    stopwatch.time(name + (deterministic ? ", reproducible gradient" : ", atomic gradient"), bytes,
                   [&](cudaStream_t stream) {
                     return cuda::roi_align_backward<T>(params, deterministic, crops.data(), boxes.data(), maps,
                                                        scratch.data(), stream);
                   });
  }
}

// Three anchors at each place of five levels of 800 x 1344.
const std::vector<int> kLevelSizes = {201600, 50400, 12600, 3150, 819};

void time_proposals(GpuMachine& machine, Stopwatch& stopwatch, int num_images) {
  Random random(4);
  ProposalCase test = proposal_case("", random, kLevelSizes, num_images, 2000, 1000, 1000);
  test.anchors = random_boxes(random, test.params.num_anchors, 800.0f);
  test.image_sizes.clear();
  for (int i = 0; i < num_images; ++i) test.image_sizes.insert(test.image_sizes.end(), {800, 1344});
  const ProposalParams& params = test.params;
  const auto logits = machine.upload(test.logits);
  const auto deltas = machine.upload(test.deltas);
  const auto anchors = machine.upload(test.anchors);
  const auto image_sizes = machine.upload(test.image_sizes);
  const auto boxes = machine.allocate<Box>(1000 * num_images);
  const auto scores = machine.allocate<float>(1000 * num_images);
  const auto valid = machine.allocate<bool>(1000 * num_images);
  const DeviceArray<char> scratch(cuda::scratch_bytes(params));
  // Logits of all images and anchors once; the selected deltas and the results are small.
  const double bytes = params.num_anchors * (1.0 * num_images * sizeof(float) + sizeof(Box));
  const std::string name = "generate_proposals, " + std::to_string(num_images) + " x 268,569 anchors, 2,000 a level";
  stopwatch.time(name, bytes, [&](cudaStream_t stream) {
    return cuda::generate_proposals(params, {logits.data(), deltas.data(), anchors.data(), image_sizes.data()},
                                    {boxes.data(), scores.data(), valid.data()}, scratch.data(), stream);
  });
}

void time_matching(GpuMachine& machine, Stopwatch& stopwatch, int num_gt) {
  Random random(5);
  MatchCase test = match_case("", random, {2, 268569, num_gt, 2, true});
  test.boxes = random_boxes(random, 268569, 800.0f);
  test.gt_boxes = random_boxes(random, 2 * num_gt, 800.0f);
  const auto boxes = machine.upload(test.boxes);
  const auto gt_boxes = machine.upload(test.gt_boxes);
  const auto gt_valid = machine.upload(test.gt_valid);
  const auto crowd_boxes = machine.upload(test.crowd_boxes);
  const size_t count = 2 * test.boxes.size();
  const auto best_iou = machine.allocate<float>(count);
  const auto best_gt = machine.allocate<int>(count);
  const auto is_best = machine.allocate<bool>(count);
  const auto crowd_overlap = machine.allocate<float>(count);
  const DeviceArray<char> scratch(cuda::scratch_bytes(test.params));
  // Anchors once, 13 bytes of results for each and image.
  const double bytes = test.boxes.size() * (sizeof(Box) + 2.0 * 13.0);
  stopwatch.time("match_boxes, 2 x 268,569 anchors, " + std::to_string(num_gt) + " ground truths", bytes,
                 [&](cudaStream_t stream) {
                   return cuda::match_boxes(test.params,
                                            {boxes.data(), nullptr, gt_boxes.data(),
                                             reinterpret_cast<const bool*>(gt_valid.data()), crowd_boxes.data()},
                                            {best_iou.data(), best_gt.data(), is_best.data(), crowd_overlap.data()},
                                            scratch.data(), stream);
                 });
}

void time_detections(GpuMachine& machine, Stopwatch& stopwatch) {
  Random random(6);
  DetectionCase test = detection_case("", random, {2, 1000, 80, false, 0.05f, 0.5f, 100});
  for (float& score : test.scores) score *= score * score * score;  // most are low
  const auto device_boxes = machine.upload(test.boxes);
  const auto device_scores = machine.upload(test.scores);
  const auto boxes = machine.allocate<Box>(200);
  const auto scores = machine.allocate<float>(200);
  const auto classes = machine.allocate<int>(200);
  const auto roi_indices = machine.allocate<int>(200);
  const auto valid = machine.allocate<bool>(200);
  const DeviceArray<char> scratch(cuda::scratch_bytes(test.params));
  // Boxes and scores once.
  const double bytes = 2.0 * 1000 * 80 * (sizeof(Box) + sizeof(float));
  stopwatch.time("multiclass_nms, 2 x 1,000 boxes x 80 classes", bytes, [&](cudaStream_t stream) {
    return cuda::multiclass_nms(test.params, {device_boxes.data(), device_scores.data()},
                                {boxes.data(), scores.data(), classes.data(), roi_indices.data(), valid.data()},
                                scratch.data(), stream);
  });
}

// The second stage of a ResNet-50 at 800 x 1344.
void time_group_norm(GpuMachine& machine, Stopwatch& stopwatch) {
  const GroupNormShape shape = {2, 200 * 336, 256, 32, 1e-5f, true};
  const int64_t count = shape.images * shape.positions * shape.channels;
  const auto x = machine.upload(many_values<BFloat16>(count)), dy = machine.upload(many_values<BFloat16>(count));
  const auto gamma = machine.upload(many_values<float>(256)), beta = machine.upload(many_values<float>(256));
  const auto y = machine.allocate<BFloat16>(count), dx = machine.allocate<BFloat16>(count);
  const auto mean = machine.allocate<float>(64), deviation = machine.allocate<float>(64);
  const auto dgamma = machine.allocate<float>(256), dbeta = machine.allocate<float>(256);
  const DeviceArray<char> scratch(cuda::scratch_bytes(shape));
  const double bytes = 2.0 * count;
  stopwatch.time("group_norm bfloat16, 2 x 200 x 336 x 256", 2 * bytes, [&](cudaStream_t stream) {
    return cuda::group_norm(shape, x.data(), gamma.data(), beta.data(), y.data(),
                            GroupStatistics{mean.data(), deviation.data()}, scratch.data(), stream);
  });
  const NormInputs<BFloat16> inputs = {x.data(), dy.data(), gamma.data(), beta.data(), mean.data(), deviation.data()};
  stopwatch.time("group_norm bfloat16, gradient", 3 * bytes, [&](cudaStream_t stream) {
    return cuda::group_norm_backward(shape, inputs, dx.data(), dgamma.data(), dbeta.data(), scratch.data(), stream);
  });
}

// As many numbers as R50-FPN has, in 168 variables.
void time_sgd(GpuMachine& machine, Stopwatch& stopwatch) {
  const SgdCase test = {"", std::vector<int64_t>(168, 264000), true, true};
  const SgdArrays<DeviceArray<float>> arrays(test,
                                             [&](const std::vector<float>& values) { return machine.upload(values); });
  const auto one = machine.upload(std::vector<float>{1.0f});
  const auto is_taken = machine.upload(Flags{1});
  const auto norm = machine.allocate<float>(1);
  const int count = static_cast<int>(arrays.variables.size());
  const DeviceArray<char> scratch(gradient_norm_scratch_bytes(arrays.variables.data(), count));
  const double bytes = 168.0 * 264000 * sizeof(float);
  stopwatch.time("gradient_norm, 168 variables, 44 M numbers", 2 * bytes, [&](cudaStream_t stream) {
    return cuda::gradient_norm(arrays.variables.data(), count, one.data(), norm.data(), scratch.data(), stream);
  });
  stopwatch.time("sgd, 168 variables, 44 M numbers", 5 * bytes, [&](cudaStream_t stream) {
    return cuda::sgd(arrays.variables.data(), count,
                     {one.data(), one.data(), one.data(), reinterpret_cast<const bool*>(is_taken.data()), 0.9f},
                     stream);
  });
}

void time_everything(GpuMachine& machine) {
  Stopwatch stopwatch(machine);
  for (const auto& [num_boxes, output_size] : {std::pair{512, 7}, {128, 14}}) {
    time_roi_align<float>(machine, stopwatch, 2, num_boxes, output_size);
    time_roi_align<Half>(machine, stopwatch, 2, num_boxes, output_size);
    for (const int num_images : {1, 2, 12}) {
      time_roi_align<BFloat16>(machine, stopwatch, num_images, num_boxes, output_size);
    }
  }
  for (const int num_images : {1, 2, 12}) time_proposals(machine, stopwatch, num_images);
  time_matching(machine, stopwatch, 20);
  time_matching(machine, stopwatch, 2000);
  time_detections(machine, stopwatch);
  time_group_norm(machine, stopwatch);
  time_sgd(machine, stopwatch);
}

int run(bool checks, bool times) {
  int num_devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&num_devices);
  if (error != cudaSuccess || num_devices == 0) {
    std::fprintf(stderr, "gpu_check: no GPU here, nothing was checked: %s\n",
                 error != cudaSuccess ? cudaGetErrorString(error) : "0 devices");
    return 2;
  }
  cudaDeviceProp properties;
  int runtime = 0, driver = 0;
  require(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
  require(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion");
  require(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
  std::printf("%s, sm_%d%d, CUDA runtime %d.%d, driver for %d.%d; CPU kernels: %s\n", properties.name, properties.major,
              properties.minor, runtime / 1000, runtime % 1000 / 10, driver / 1000, driver % 1000 / 10,
              kernels().instruction_set);

  GpuMachine machine;
  Report report;
  if (checks) {
    check_everything(machine, report);
    check_full_size(machine, report);
    std::printf("%d checks passed, %d failed\n", report.num_passed(), report.num_failed());
  }
  if (times) time_everything(machine);
  return report.num_failed() == 0 ? 0 : 1;
}

}  // namespace
}  // namespace mrcnn

int main(int count, char** arguments) {
  bool checks = count == 1, times = count == 1;
  for (int i = 1; i < count; ++i) {
    const bool is_checks = std::strcmp(arguments[i], "--checks") == 0;
    if (!is_checks && std::strcmp(arguments[i], "--times") != 0) {
      std::fprintf(stderr, "gpu_check: %s: expected --checks or --times\n", arguments[i]);
      return 2;
    }
    (is_checks ? checks : times) = true;
  }
  return mrcnn::run(checks, times);
}
