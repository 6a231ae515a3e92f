// ROIAlign on the CPU, vectorised over channels. Part of simd_kernels.cc.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace mrcnn {
namespace {

// The taps of all bins of one box along one axis, in scratch memory.
struct AxisTaps {
  Tap* taps;  // [P, 2 * S]
  int* counts;
  int stride;

  AxisTaps(const RoiAlignParams& params, void* memory)
      : taps(static_cast<Tap*>(memory)),
        counts(reinterpret_cast<int*>(taps + params.output_size * 2 * params.sampling_ratio)),
        stride(2 * params.sampling_ratio) {}

  void* end(const RoiAlignParams& params) const { return counts + params.output_size; }

  void fill(const RoiAlignParams& params, const RoiAxis& axis) {
    for (int bin = 0; bin < params.output_size; ++bin) {
      counts[bin] = bin_taps(axis, bin, params.sampling_ratio, taps + bin * stride);
    }
  }

  const Tap* begin(int bin) const { return taps + bin * stride; }
  const Tap* end(int bin) const { return taps + bin * stride + counts[bin]; }
};

struct PixelTap {
  int64_t offset;  // in elements, from the first pixel of the map
  float weight;
};

// out[c] = sum over taps of weight * map[offset + c]
template <class T>
inline void gather(const T* map, const PixelTap* taps, int count, int channels, T* out) {
  int c = 0;
  for (; c + 4 * kLanes <= channels; c += 4 * kLanes) {
    Float8 sum0{}, sum1{}, sum2{}, sum3{};
    for (int i = 0; i < count; ++i) {
      const T* pixel = map + taps[i].offset + c;
      const Float8 weight = splat(taps[i].weight);
      sum0 = multiply_add(weight, load(pixel), sum0);
      sum1 = multiply_add(weight, load(pixel + kLanes), sum1);
      sum2 = multiply_add(weight, load(pixel + 2 * kLanes), sum2);
      sum3 = multiply_add(weight, load(pixel + 3 * kLanes), sum3);
    }
    store(sum0, out + c);
    store(sum1, out + c + kLanes);
    store(sum2, out + c + 2 * kLanes);
    store(sum3, out + c + 3 * kLanes);
  }
  for (; c + kLanes <= channels; c += kLanes) {
    Float8 sum{};
    for (int i = 0; i < count; ++i) sum = multiply_add(splat(taps[i].weight), load(map + taps[i].offset + c), sum);
    store(sum, out + c);
  }
  for (; c < channels; ++c) {
    float sum = 0.0f;
    for (int i = 0; i < count; ++i) sum += taps[i].weight * to_float(map[taps[i].offset + c]);
    from_float(sum, out + c);
  }
}

// sum[c] += weight * values[c]
template <class T>
inline void add_scaled(float weight, const T* values, int channels, float* sum) {
  int c = 0;
  for (; c + kLanes <= channels; c += kLanes) {
    store(multiply_add(splat(weight), load(values + c), load(sum + c)), sum + c);
  }
  for (; c < channels; ++c) sum[c] += weight * to_float(values[c]);
}

template <class T>
inline void convert(const float* values, int64_t count, T* out) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(load(values + i), out + i);
  for (; i < count; ++i) from_float(values[i], out + i);
}

template <class T>
inline void zero(T* values, int64_t count) {
  memset(static_cast<void*>(values), 0, count * sizeof(T));
}

template <class T>
void roi_align_forward(const RoiAlignParams& params, const T* const* features, const Box* boxes, int64_t begin,
                       int64_t end, T* output, void* scratch) {
  const int size = params.output_size;
  const int channels = params.channels;
  AxisTaps rows(params, scratch);
  AxisTaps columns(params, rows.end(params));
  PixelTap pixels[4 * kMaxSamplingRatio * kMaxSamplingRatio];

  for (int64_t i = begin; i < end; ++i) {
    T* out = output + i * size * size * channels;
    const Box& box = boxes[i];
    const RoiGeometry geometry = roi_geometry(params, box);
    const int level = geometry.level;
    const int width = params.widths[level];
    if (!geometry.reads) {
      zero(out, static_cast<int64_t>(size) * size * channels);
      continue;
    }
    rows.fill(params, geometry.y);
    columns.fill(params, geometry.x);
    const int64_t image = i / params.num_boxes;
    const T* map = features[level] + image * params.heights[level] * width * channels;
    for (int py = 0; py < size; ++py) {
      for (int px = 0; px < size; ++px, out += channels) {
        int count = 0;
        for (const Tap* y = rows.begin(py); y != rows.end(py); ++y) {
          const int64_t row = static_cast<int64_t>(y->index) * width;
          for (const Tap* x = columns.begin(px); x != columns.end(px); ++x) {
            pixels[count++] = {(row + x->index) * channels, y->weight * x->weight};
          }
        }
        gather(map, pixels, count, channels, out);
      }
    }
  }
}

// Adds one box's gradient to the tile's sums.
template <class T>
inline void scatter_box(const RoiTile& tile, const AxisTaps& rows, const AxisTaps& columns, const T* gradient, int size,
                        int channels, float* sums) {
  const int tile_width = tile.columns.end - tile.columns.begin;
  for (int py = 0; py < size; ++py) {
    for (const Tap* y = rows.begin(py); y != rows.end(py); ++y) {
      if (!contains(tile.rows, y->index)) continue;
      float* row = sums + static_cast<int64_t>(y->index - tile.rows.begin) * tile_width * channels;
      for (int px = 0; px < size; ++px) {
        const T* bin = gradient + (static_cast<int64_t>(py) * size + px) * channels;
        for (const Tap* x = columns.begin(px); x != columns.end(px); ++x) {
          if (!contains(tile.columns, x->index)) continue;
          add_scaled(y->weight * x->weight, bin, channels,
                     row + static_cast<int64_t>(x->index - tile.columns.begin) * channels);
        }
      }
    }
  }
}

template <class T>
void roi_align_backward(const RoiAlignParams& params, const T* output_gradient, const Box* boxes,
                        const RoiFootprint* footprints, const int* order, const int* level_begin, const RoiTile& tile,
                        T* const* feature_gradients, void* scratch) {
  const int size = params.output_size;
  const int channels = params.channels;
  const int width = params.widths[tile.level];
  const int64_t row_length = static_cast<int64_t>(tile.columns.end - tile.columns.begin) * channels;
  const int64_t num_rows = tile.rows.end - tile.rows.begin;
  AxisTaps rows(params, scratch);
  AxisTaps columns(params, rows.end(params));
  // The sums of a tile stay in the cache while all boxes are added, in float32 whatever T is; memory is written once.
  float* sums = static_cast<float*>(columns.end(params));

  bool empty = true;
  const int* begins = level_begin + static_cast<int64_t>(tile.image) * (params.num_levels + 1) + tile.level;
  for (int k = begins[0]; k < begins[1]; ++k) {
    const int64_t i = order[k];
    if (!overlap(footprints[i].rows, tile.rows) || !overlap(footprints[i].columns, tile.columns)) continue;
    if (empty) zero(sums, num_rows * row_length);
    empty = false;
    const RoiGeometry geometry = roi_geometry(params, boxes[i]);
    rows.fill(params, geometry.y);
    columns.fill(params, geometry.x);
    scatter_box(tile, rows, columns, output_gradient + i * size * size * channels, size, channels, sums);
  }

  T* map =
      feature_gradients[tile.level] + static_cast<int64_t>(tile.image) * params.heights[tile.level] * width * channels;
  for (int64_t row = 0; row < num_rows; ++row) {
    T* out = map + ((tile.rows.begin + row) * width + tile.columns.begin) * channels;
    if (empty) {
      zero(out, row_length);
    } else {
      convert(sums + row * row_length, row_length, out);
    }
  }
}

}  // namespace
}  // namespace mrcnn
