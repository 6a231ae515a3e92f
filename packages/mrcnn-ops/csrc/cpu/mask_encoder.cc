#include "mask_encoder.h"

#include "../bilinear.h"
#include "../mask_paste.h"

namespace mrcnn {

void RunWriter::end_run() {
  int64_t number = written_ > 2 ? run_ - previous_[1] : run_;
  bool more = true;
  while (more) {
    const int group = static_cast<int>(number & 31);
    number >>= 5;
    // Done when the rest is only copies of the sign, which is bit 4 of the last group.
    more = group & 16 ? number != -1 : number != 0;
    counts_->push_back(static_cast<char>(48 + (more ? group | 32 : group)));
  }
  previous_[1] = previous_[0];
  previous_[0] = run_;
  ++written_;
  run_ = 0;
  value_ = !value_;
}

MaskEncoder::MaskEncoder(int mask_size)
    : mask_size_(mask_size), transposed_(static_cast<size_t>(mask_size) * mask_size), column_(mask_size) {}

void MaskEncoder::fill_cells(const Box& box, int begin, int end) {
  cells_.clear();
  fractions_.resize(end);
  for (int y = begin; y < end; ++y) {
    const LinearTaps taps = linear_taps(mask_position(y, box.y1, box.y2 - box.y1, mask_size_), mask_size_);
    fractions_[y] = taps.high_weight;
    if (cells_.empty() || cells_.back().low != taps.low || cells_.back().high != taps.high) {
      cells_.push_back({taps.low, taps.high, y, y});
    }
    cells_.back().end = y + 1;
  }
}

// Within a cell the value is a + f * (b - a) with rising f, and rounding keeps it monotonic: it crosses the threshold
// at most once, so the two ends tell whether, and a binary search tells where.
void MaskEncoder::append_column(float threshold, RunWriter* runs) const {
  for (const Cell& cell : cells_) {
    const float from = column_[cell.low];
    const float rise = column_[cell.high] - from;
    const auto foreground = [&](int y) { return from + fractions_[y] * rise > threshold; };
    const bool first = foreground(cell.begin);
    if (foreground(cell.end - 1) == first) {
      runs->append(first, cell.end - cell.begin);
      continue;
    }
    int same = cell.begin, other = cell.end - 1;
    while (other - same > 1) {
      const int middle = same + (other - same) / 2;
      (foreground(middle) == first ? same : other) = middle;
    }
    runs->append(first, other - cell.begin);
    runs->append(!first, cell.end - other);
  }
}

void MaskEncoder::encode(const float* mask, const Box& box, int height, int width, float threshold,
                         std::string* counts) {
  counts->clear();
  RunWriter runs(counts);
  const PixelRange rows = touched_pixels(box.y1, box.y2, height);
  const PixelRange columns = touched_pixels(box.x1, box.x2, width);
  const bool empty = !is_finite(box) || !(box.x2 > box.x1) || !(box.y2 > box.y1) || rows.begin == rows.end;
  if (empty || columns.begin == columns.end) {
    runs.append(false, static_cast<int64_t>(height) * width);
    runs.finish();
    return;
  }

  const int size = mask_size_;
  for (int y = 0; y < size; ++y) {
    for (int x = 0; x < size; ++x) transposed_[x * size + y] = mask[y * size + x];
  }
  fill_cells(box, rows.begin, rows.end);

  runs.append(false, static_cast<int64_t>(columns.begin) * height);
  for (int x = columns.begin; x < columns.end; ++x) {
    const LinearTaps taps = linear_taps(mask_position(x, box.x1, box.x2 - box.x1, size), size);
    const float* low = transposed_.data() + taps.low * size;
    const float* high = transposed_.data() + taps.high * size;
    for (int y = 0; y < size; ++y) column_[y] = low[y] + taps.high_weight * (high[y] - low[y]);
    runs.append(false, rows.begin);
    append_column(threshold, &runs);
    runs.append(false, height - rows.end);
  }
  runs.append(false, static_cast<int64_t>(width - columns.end) * height);
  runs.finish();
}

}  // namespace mrcnn
