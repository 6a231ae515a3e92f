// ROIAlign and its gradient as a grid of blocks. All images and levels are one launch.
//
// N images, R boxes per image, C channels, P output size, S sampling ratio.
#pragma once

#include "../roi_align.h"
#include "atomics.h"
#include "block.h"
#include "channels.h"

namespace mrcnn {

template <class T>
struct FeatureMaps {
  T* levels[kMaxLevels];  // each [N, H, W, C]
};

// The taps of one row of bins, in shared memory: those of its P columns and, last, those of the row itself.
struct BinRowTaps {
  Tap* taps;    // [P + 1, 2 * S]
  int* counts;  // [P + 1]
  int stride;
  int num_columns;

  MRCNN_HD BinRowTaps(const RoiAlignParams& params, Divider* memory)
      : taps(memory->take<Tap>((params.output_size + 1) * 2 * params.sampling_ratio)),
        counts(memory->take<int>(params.output_size + 1)),
        stride(2 * params.sampling_ratio),
        num_columns(params.output_size) {}

  static size_t bytes(const RoiAlignParams& params) {
    Divider divider(nullptr);
    BinRowTaps(params, &divider);
    return divider.used();
  }

  // Entry `index` of the P + 1.
  MRCNN_HD void fill(const RoiAlignParams& params, const RoiGeometry& geometry, int row, int index) const {
    const bool is_row = index == num_columns;
    counts[index] =
        bin_taps(is_row ? geometry.y : geometry.x, is_row ? row : index, params.sampling_ratio, taps + index * stride);
  }

  // visit(offset in pixels, weight) for every pixel of a bin, row by row: the order of the CPU kernel.
  template <class Visit>
  MRCNN_HD void for_each_pixel(int column, int map_width, const Visit& visit) const {
    const Tap* y = taps + num_columns * stride;
    for (const Tap* y_end = y + counts[num_columns]; y != y_end; ++y) {
      const int64_t row = static_cast<int64_t>(y->index) * map_width;
      const Tap* x = taps + column * stride;
      for (const Tap* x_end = x + counts[column]; x != x_end; ++x) visit(row + x->index, y->weight * x->weight);
    }
  }
};

// A block makes one row of bins of one box; unit = box * P + row.
template <class T, int V>
struct RoiAlignForward {
  static constexpr int kThreads = 256;

  RoiAlignParams params;
  FeatureMaps<const T> features;
  const Box* boxes;  // [N * R]
  T* output;         // [N * R, P, P, C]

  size_t shared_bytes() const { return BinRowTaps::bytes(params); }

  template <class Block>
  MRCNN_HD void operator()(Block& block, int64_t unit) const {
    const int size = params.output_size;
    const int64_t box = unit / size;
    const int row = static_cast<int>(unit % size);
    const RoiGeometry geometry = roi_geometry(params, boxes[box]);
    Divider shared(block.shared_memory());
    const BinRowTaps taps(params, &shared);

    block.for_each_thread([&](int thread) {
      for (int i = thread; geometry.reads && i <= size; i += block.num_threads()) taps.fill(params, geometry, row, i);
    });

    const int width = params.widths[geometry.level];
    const int64_t pixels = static_cast<int64_t>(params.heights[geometry.level]) * width;
    const T* map = features.levels[geometry.level] + box / params.num_boxes * pixels * params.channels;
    T* out = output + unit * size * params.channels;
    const int groups = params.channels / V;
    block.for_each_thread([&](int thread) {
      for (int64_t i = thread; i < static_cast<int64_t>(size) * groups; i += block.num_threads()) {
        const int column = static_cast<int>(i / groups);
        const int channel = static_cast<int>(i % groups) * V;
        float sums[V] = {};
        if (geometry.reads) {
          taps.for_each_pixel(column, width, [&](int64_t pixel, float weight) {
            add_channels<V>(weight, map + pixel * params.channels + channel, sums);
          });
        }
        store_channels<V>(sums, out + static_cast<int64_t>(column) * params.channels + channel);
      }
    });
  }
};

// The fast gradient: adds to every pixel that a bin has read, with atomics, so the order of the sums and with it their
// last bits vary from run to run. Sums are float32 whatever T is. Units as above.
template <class T>
struct RoiAlignScatter {
  static constexpr int kThreads = 256;

  RoiAlignParams params;
  const T* gradient;  // [N * R, P, P, C]
  const Box* boxes;   // [N * R]
  FeatureMaps<float> sums;

  size_t shared_bytes() const { return BinRowTaps::bytes(params); }

  template <class Block>
  MRCNN_HD void operator()(Block& block, int64_t unit) const {
    const int size = params.output_size;
    const int64_t box = unit / size;
    const int row = static_cast<int>(unit % size);
    const RoiGeometry geometry = roi_geometry(params, boxes[box]);
    if (!geometry.reads) return;
    Divider shared(block.shared_memory());
    const BinRowTaps taps(params, &shared);

    block.for_each_thread([&](int thread) {
      for (int i = thread; i <= size; i += block.num_threads()) taps.fill(params, geometry, row, i);
    });

    const int channels = params.channels;
    const int width = params.widths[geometry.level];
    const int64_t pixels = static_cast<int64_t>(params.heights[geometry.level]) * width;
    float* map = sums.levels[geometry.level] + box / params.num_boxes * pixels * channels;
    const T* bins = gradient + unit * size * channels;
    block.for_each_thread([&](int thread) {
      for (int64_t i = thread; i < static_cast<int64_t>(size) * channels; i += block.num_threads()) {
        const int column = static_cast<int>(i / channels);
        const int channel = static_cast<int>(i % channels);
        const float value = to_float(bins[i]);
        taps.for_each_pixel(column, width, [&](int64_t pixel, float weight) {
          atomic_add(map + pixel * channels + channel, weight * value);
        });
      }
    });
  }
};

template <class T>
struct ConvertSums {
  const float* sums;
  T* values;

  MRCNN_HD void operator()(int64_t i) const { from_float(sums[i], values + i); }
};

struct FillFootprints {
  RoiAlignParams params;
  const Box* boxes;          // [N * R]
  RoiFootprint* footprints;  // [N * R]

  MRCNN_HD void operator()(int64_t i) const { footprints[i] = roi_footprint(params, boxes[i]); }
};

// The reproducible gradient: a block owns a tile of a feature map and some of its channels, and adds the boxes that
// touch it in their order, bin by bin, as the CPU kernel does. unit = tile * chunks + chunk of channels.
template <class T, int V>
struct RoiAlignGather {
  static constexpr int kEdge = 8;    // of a tile, in pixels
  static constexpr int kLanes = 32;  // threads beside each other, V channels each
  static constexpr int kThreads = kEdge * kLanes;

  RoiAlignParams params;
  const T* gradient;               // [N * R, P, P, C]
  const Box* boxes;                // [N * R]
  const RoiFootprint* footprints;  // [N * R]
  FeatureMaps<T> feature_gradients;

  struct RowSums {
    float pixels[kEdge][V];
  };

  struct Shared {
    int* touches;      // [kThreads]: whether each of the boxes looked at touches the tile
    int* touching;     // [kThreads]: those that do, in order
    int* count;        // of them
    float* weights;    // [2, kEdge, P]: of bin and pixel, along y and along x
    IndexRange* bins;  // [2, kEdge]: the bins with weight

    MRCNN_HD Shared(const RoiAlignParams& params, Divider* memory)
        : touches(memory->take<int>(kThreads)),
          touching(memory->take<int>(kThreads)),
          count(memory->take<int>(1)),
          weights(memory->take<float>(2 * kEdge * params.output_size)),
          bins(memory->take<IndexRange>(2 * kEdge)) {}
  };

  size_t shared_bytes() const {
    Divider divider(nullptr);
    Shared(params, &divider);
    return divider.used();
  }

  MRCNN_HD static int64_t chunks(const RoiAlignParams& params) {
    return (static_cast<int64_t>(params.channels) + kLanes * V - 1) / (kLanes * V);
  }

  // Column `bin` of the weights along one axis: `position` of the bin's taps counts from the tile's edge.
  MRCNN_HD void fill_weights(const RoiAxis& axis, int bin, int tile_begin, float* weights) const {
    for (int i = 0; i < kEdge; ++i) weights[i * params.output_size + bin] = 0.0f;
    Tap taps[2 * kMaxSamplingRatio];
    const int count = bin_taps(axis, bin, params.sampling_ratio, taps);
    for (int t = 0; t < count; ++t) {
      const int i = taps[t].index - tile_begin;
      if (i >= 0 && i < kEdge) weights[i * params.output_size + bin] = taps[t].weight;
    }
  }

  MRCNN_HD IndexRange bins_with_weight(const float* weights) const {
    IndexRange range = {0, params.output_size};
    while (range.begin < range.end && weights[range.begin] == 0.0f) ++range.begin;
    while (range.begin < range.end && weights[range.end - 1] == 0.0f) --range.end;
    return range;
  }

  // What one box adds to one row of the tile, channels [channel, channel + V).
  MRCNN_HD void add_box(const Shared& shared, int64_t box, int y, int channel, RowSums* sums) const {
    const int size = params.output_size;
    const float* weights_y = shared.weights + y * size;
    const IndexRange rows = shared.bins[y];
    for (int py = rows.begin; py < rows.end; ++py) {
      const float weight_y = weights_y[py];
      if (weight_y == 0.0f) continue;
      const T* bins = gradient + (box * size + py) * size * params.channels + channel;
      MRCNN_UNROLL
      for (int x = 0; x < kEdge; ++x) {
        const float* weights_x = shared.weights + (kEdge + x) * size;
        const IndexRange columns = shared.bins[kEdge + x];
        for (int px = columns.begin; px < columns.end; ++px) {
          if (weights_x[px] == 0.0f) continue;
          add_channels<V>(weight_y * weights_x[px], bins + static_cast<int64_t>(px) * params.channels, sums->pixels[x]);
        }
      }
    }
  }

  template <class Block>
  MRCNN_HD void operator()(Block& block, int64_t unit) const {
    const RoiTile tile = roi_align_tile(params, kEdge, unit / chunks(params));
    const int first_channel = static_cast<int>(unit % chunks(params)) * kLanes * V;
    const int64_t first_box = static_cast<int64_t>(tile.image) * params.num_boxes;
    Divider memory(block.shared_memory());
    const Shared shared(params, &memory);
    typename Block::template PerThread<RowSums, kThreads> sums;

    block.for_each_thread([&](int thread) {
      MRCNN_UNROLL
      for (int x = 0; x < kEdge; ++x) {
        MRCNN_UNROLL
        for (int v = 0; v < V; ++v) sums[thread].pixels[x][v] = 0.0f;
      }
    });

    for (int begin = 0; begin < params.num_boxes; begin += kThreads) {
      block.for_each_thread([&](int thread) {
        const int i = begin + thread;
        bool touches = i < params.num_boxes;
        if (touches) {
          const RoiFootprint footprint = footprints[first_box + i];
          touches = footprint.level == tile.level && overlap(footprint.rows, tile.rows) &&
                    overlap(footprint.columns, tile.columns);
        }
        shared.touches[thread] = touches;
      });
      block.for_each_thread([&](int thread) {
        int before = 0;
        for (int i = 0; i < thread; ++i) before += shared.touches[i];
        if (shared.touches[thread]) shared.touching[before] = begin + thread;
        if (thread == kThreads - 1) *shared.count = before + shared.touches[thread];
      });
      const int count = block.uniform(*shared.count);

      for (int k = 0; k < count; ++k) {
        block.for_each_thread([&](int thread) {
          for (int i = thread; i < 2 * params.output_size; i += kThreads) {
            const RoiGeometry geometry = roi_geometry(params, boxes[first_box + shared.touching[k]]);
            const bool along_y = i < params.output_size;
            fill_weights(along_y ? geometry.y : geometry.x, along_y ? i : i - params.output_size,
                         along_y ? tile.rows.begin : tile.columns.begin,
                         shared.weights + (along_y ? 0 : kEdge * params.output_size));
          }
        });
        block.for_each_thread([&](int thread) {
          if (thread < 2 * kEdge) shared.bins[thread] = bins_with_weight(shared.weights + thread * params.output_size);
        });
        block.for_each_thread([&](int thread) {
          const int channel = first_channel + thread % kLanes * V;
          if (channel >= params.channels) return;
          add_box(shared, first_box + shared.touching[k], thread / kLanes, channel, &sums[thread]);
        });
      }
    }

    const int width = params.widths[tile.level];
    block.for_each_thread([&](int thread) {
      const int channel = first_channel + thread % kLanes * V;
      const int y = tile.rows.begin + thread / kLanes;
      if (channel >= params.channels || y >= tile.rows.end) return;
      const int64_t row = (static_cast<int64_t>(tile.image) * params.heights[tile.level] + y) * width;
      MRCNN_UNROLL
      for (int x = 0; x < kEdge; ++x) {
        const int column = tile.columns.begin + x;
        if (column >= tile.columns.end) break;
        store_channels<V>(sums[thread].pixels[x],
                          feature_gradients.levels[tile.level] + (row + column) * params.channels + channel);
      }
    });
  }
};

inline int64_t map_elements(const RoiAlignParams& params, int level) {
  return static_cast<int64_t>(params.num_images) * params.heights[level] * params.widths[level] * params.channels;
}

// ---- the launches, over a grid of the device or of the host ----

template <class T, class Grid>
void roi_align_forward_on(Grid& grid, const RoiAlignParams& params, const T* const* features, const Box* boxes,
                          T* output) {
  constexpr int kVector = channels_per_load<T>();
  FeatureMaps<const T> maps = {};
  bool vectors = params.channels % kVector == 0 && is_aligned_for_loads(output);
  for (int level = 0; level < params.num_levels; ++level) {
    maps.levels[level] = features[level];
    vectors = vectors && is_aligned_for_loads(features[level]);
  }
  if (params.channels == 0) return;
  const int64_t units = static_cast<int64_t>(params.num_images) * params.num_boxes * params.output_size;
  if (vectors) {
    grid.run_blocks(RoiAlignForward<T, kVector>{params, maps, boxes, output}, units);
  } else {
    grid.run_blocks(RoiAlignForward<T, 1>{params, maps, boxes, output}, units);
  }
}

struct RoiAlignBackwardScratch {
  RoiFootprint* footprints;  // reproducible
  float* sums[kMaxLevels];   // fast, 16-bit types

  // element_bytes: of T.
  RoiAlignBackwardScratch(const RoiAlignParams& params, bool deterministic, size_t element_bytes, Divider* memory)
      : footprints(), sums() {
    if (deterministic) {
      footprints = memory->take<RoiFootprint>(static_cast<int64_t>(params.num_images) * params.num_boxes);
    } else if (element_bytes != sizeof(float)) {
      for (int level = 0; level < params.num_levels; ++level) {
        sums[level] = memory->take<float>(map_elements(params, level));
      }
    }
  }
};

template <class T>
size_t roi_align_backward_scratch_bytes(const RoiAlignParams& params, bool deterministic) {
  Divider divider(nullptr);
  RoiAlignBackwardScratch(params, deterministic, sizeof(T), &divider);
  return divider.used();
}

template <class T, class Grid>
void roi_align_gather_on(Grid& grid, const RoiAlignParams& params, const T* gradient, const Box* boxes,
                         T* const* feature_gradients, RoiFootprint* footprints) {
  constexpr int kVector = channels_per_load<T>();
  FeatureMaps<T> maps = {};
  bool vectors = params.channels % kVector == 0 && is_aligned_for_loads(gradient);
  for (int level = 0; level < params.num_levels; ++level) {
    maps.levels[level] = feature_gradients[level];
    vectors = vectors && is_aligned_for_loads(feature_gradients[level]);
  }
  grid.run_elements(FillFootprints{params, boxes, footprints},
                    static_cast<int64_t>(params.num_images) * params.num_boxes);
  const int64_t tiles = count_roi_align_tiles(params, RoiAlignGather<T, 1>::kEdge);
  if (vectors) {
    using Body = RoiAlignGather<T, kVector>;
    grid.run_blocks(Body{params, gradient, boxes, footprints, maps}, tiles * Body::chunks(params));
  } else {
    using Body = RoiAlignGather<T, 1>;
    grid.run_blocks(Body{params, gradient, boxes, footprints, maps}, tiles * Body::chunks(params));
  }
}

// Where sums are added up: in the output itself if it is float32.
inline float* sums_of(float* output, float*) { return output; }
template <class T>
float* sums_of(T*, float* scratch) {
  return scratch;
}

template <class Grid>
void convert_sums_on(Grid&, const float*, float*, int64_t) {}
template <class T, class Grid>
void convert_sums_on(Grid& grid, const float* sums, T* output, int64_t count) {
  grid.run_elements(ConvertSums<T>{sums, output}, count);
}

template <class T, class Grid>
void roi_align_scatter_on(Grid& grid, const RoiAlignParams& params, const T* gradient, const Box* boxes,
                          T* const* feature_gradients, float* const* scratch_sums) {
  FeatureMaps<float> sums = {};
  for (int level = 0; level < params.num_levels; ++level) {
    sums.levels[level] = sums_of(feature_gradients[level], scratch_sums[level]);
    grid.fill(sums.levels[level], 0, map_elements(params, level) * sizeof(float));
  }
  grid.run_blocks(RoiAlignScatter<T>{params, gradient, boxes, sums},
                  static_cast<int64_t>(params.num_images) * params.num_boxes * params.output_size);
  for (int level = 0; level < params.num_levels; ++level) {
    convert_sums_on(grid, sums.levels[level], feature_gradients[level], map_elements(params, level));
  }
}

template <class T, class Grid>
void roi_align_backward_on(Grid& grid, const RoiAlignParams& params, bool deterministic, const T* gradient,
                           const Box* boxes, T* const* feature_gradients, void* memory) {
  if (params.channels == 0) return;
  Divider divider(memory);
  const RoiAlignBackwardScratch scratch(params, deterministic, sizeof(T), &divider);
  if (deterministic) {
    roi_align_gather_on(grid, params, gradient, boxes, feature_gradients, scratch.footprints);
  } else {
    roi_align_scatter_on(grid, params, gradient, boxes, feature_gradients, scratch.sums);
  }
}

}  // namespace mrcnn
