// Checks at sizes that only a GPU computes quickly: those of training, and those at which a 32-bit index or the limit
// of a launch would be passed.
#pragma once

#include "tests/grid_checks.h"

namespace mrcnn {

// Values of which billions are made quickly.
template <class T>
std::vector<T> many_values(size_t count) {
  std::vector<T> values(count);
  uint32_t state = 12345;
  for (T& value : values) {
    state = state * 1664525u + 1013904223u;
    from_float(static_cast<float>(state >> 8) / 8388608.0f - 1.0f, &value);
  }
  return values;
}

// The pyramid of an image of 800 x 1344.
inline RoiAlignParams full_size_params(int num_images, int num_boxes, int output_size) {
  RoiAlignParams params = roi_align_params(num_images, num_boxes, 256, output_size, 4);
  params.canonical_size = 224.0f;
  for (int level = 0; level < 4; ++level) {
    params.heights[level] = 800 / (4 << level);
    params.widths[level] = 1344 / (4 << level);
  }
  return params;
}

// Feature maps on the host and on the machine; those of the machine may begin `offset` elements after aligned memory.
template <class Machine, class T>
struct Maps {
  std::vector<std::vector<T>> host;
  std::vector<decltype(std::declval<Machine>().upload(std::vector<T>()))> device;
  const T* pointers[kMaxLevels] = {};

  Maps(Machine& machine, const RoiAlignParams& params, size_t offset) {
    for (int level = 0; level < params.num_levels; ++level) {
      host.push_back(many_values<T>(elements_of_map(params, level)));
      std::vector<T> shifted(offset);
      shifted.insert(shifted.end(), host.back().begin(), host.back().end());
      device.push_back(machine.upload(shifted));
      pointers[level] = device.back().data() + offset;
    }
  }
};

// Forward, and twice the reproducible gradient, to the bit.
template <class Machine, class T>
void check_full_roi_align(Machine& machine, Report& report, const RoiAlignParams& params, size_t offset) {
  Random random(31);
  const auto boxes = random_boxes(random, static_cast<int64_t>(params.num_images) * params.num_boxes, 800.0f);
  const auto device_boxes = machine.upload(boxes);
  const Maps<Machine, T> maps(machine, params, offset);
  auto output = machine.template allocate<T>(elements_of_output(params));
  machine.roi_align_forward(params, maps.pointers, device_boxes.data(), output.data());
  const int64_t different = count_different(machine.download(output), cpu_roi_align(params, maps.host, boxes));
  const std::string name = std::string(type_name<T>()) + ", " + std::to_string(params.num_images) + " x " +
                           std::to_string(params.num_boxes) + (offset > 0 ? ", not aligned" : "");
  report.line("roi_align at full size " + name, different == 0, std::to_string(different) + " values differ");

  const auto gradient = many_values<T>(elements_of_output(params));
  const auto device_gradient = machine.upload(gradient);
  const auto expected = cpu_roi_align_gradient(params, gradient, boxes);
  for (const char* turn : {"first", "second"}) {
    std::vector<decltype(machine.template allocate<T>(0))> results;
    T* result_maps[kMaxLevels] = {};
    for (int level = 0; level < params.num_levels; ++level) {
      results.push_back(machine.template allocate<T>(elements_of_map(params, level)));
      result_maps[level] = results.back().data();
    }
    machine.roi_align_backward(params, true, device_gradient.data(), device_boxes.data(), result_maps);
    int64_t wrong = 0;
    for (int level = 0; level < params.num_levels; ++level) {
      wrong += count_different(machine.download(results[level]), expected[level]);
    }
    report.line("reproducible gradient, " + std::string(turn) + " time, " + name, wrong == 0,
                std::to_string(wrong) + " values differ");
  }
}

// More than 2^31 elements of the output: the last boxes are compared with a call that has only these.
template <class Machine>
void check_large_output(Machine& machine, Report& report) {
  constexpr int kBoxes = 43000, kCompared = 64;
  RoiAlignParams params = full_size_params(1, kBoxes, 14);
  Random random(37);
  const auto boxes = random_boxes(random, kBoxes, 800.0f);
  const auto device_boxes = machine.upload(boxes);
  const Maps<Machine, BFloat16> maps(machine, params, 0);
  auto output = machine.template allocate<BFloat16>(elements_of_output(params));
  machine.roi_align_forward(params, maps.pointers, device_boxes.data(), output.data());
  const auto all = machine.download(output);
  params.num_boxes = kCompared;
  const auto expected = cpu_roi_align(params, maps.host, {boxes.end() - kCompared, boxes.end()});
  const int64_t different =
      count_different(std::vector<BFloat16>(all.end() - static_cast<int64_t>(expected.size()), all.end()), expected);
  report.line("roi_align: " + std::to_string(all.size()) + " elements", different == 0,
              std::to_string(different) + " of the last differ");
}

// More blocks than a launch has: the kernels stride.
template <class Machine>
void check_many_blocks(Machine& machine, Report& report) {
  Random random(41);
  MatchCase test = match_case("2^28 + 300 boxes", random, {1, (1 << 28) + 300, 1, 0, true});
  test.gt_valid = {1};
  check_matching(machine, report, test);
}

template <class Machine>
void check_full_size(Machine& machine, Report& report) {
  check_full_roi_align<Machine, float>(machine, report, full_size_params(12, 512, 7), 0);
  check_full_roi_align<Machine, BFloat16>(machine, report, full_size_params(12, 128, 14), 0);
  check_full_roi_align<Machine, Half>(machine, report, full_size_params(2, 128, 14), 0);
  check_full_roi_align<Machine, float>(machine, report, full_size_params(1, 100, 7), 1);
  check_full_roi_align<Machine, Half>(machine, report, full_size_params(1, 100, 7), 3);
  Random random(43);
  check_proposals(machine, report,
                  proposal_case("10,000 candidates", random, {60000, 20000, 900}, 4, 10000, 2000, 3000));
  check_large_output(machine, report);
  check_many_blocks(machine, report);
}

}  // namespace mrcnn
