// From a predicted mask and its box to COCO's compressed run-length code, without a bitmap.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "../box.h"

namespace mrcnn {

// Writes COCO's `counts` string: lengths of runs down the columns, background first; from the fourth on as difference
// to the one two before; each number in groups of five bits, low group first, in printable characters.
class RunWriter {
 public:
  explicit RunWriter(std::string* counts) : counts_(counts) {}

  // Appends pixels of one value; joins them with what came before where the value is the same.
  void append(bool value, int64_t pixels) {
    if (pixels == 0) return;
    if (value != value_) end_run();
    run_ += pixels;
  }

  void finish() { end_run(); }

 private:
  void end_run();

  std::string* counts_;
  bool value_ = false;
  int64_t run_ = 0;
  int64_t previous_[2] = {0, 0};  // the last run written, and the one before
  int written_ = 0;
};

// Encodes masks of M x M one by one; the buffers are kept between calls.
class MaskEncoder {
 public:
  explicit MaskEncoder(int mask_size);

  // mask: [M, M] probabilities; box: pixels of the output image of height x width. A pixel that the box touches takes
  // the mask's value at its centre, interpolated bilinearly; it is foreground above the threshold. A box without area,
  // or with a non-finite coordinate, gives an empty mask.
  void encode(const float* mask, const Box& box, int height, int width, float threshold, std::string* counts);

 private:
  // Consecutive pixels of a column that lie between the same two rows of the mask.
  struct Cell {
    int low, high;   // rows of the mask
    int begin, end;  // rows of the image
  };

  void fill_cells(const Box& box, int begin, int end);
  void append_column(float threshold, RunWriter* runs) const;

  int mask_size_;
  std::vector<float> transposed_;  // [M, M], columns first
  std::vector<float> column_;      // [M], the mask between two of its columns
  std::vector<float> fractions_;   // per row of the image: how far it is from a cell's low row to its high row
  std::vector<Cell> cells_;
};

}  // namespace mrcnn
