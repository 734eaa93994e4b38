// SPDX-License-Identifier: Apache-2.0
// Slices (core/slices.h) as AMX wants them: a layer's outputs are cut into tiles of 16, its inputs into tiles of 64.
#pragma once

#include <cstdint>

#include "core/slices.h"

namespace snnfast {

constexpr int64_t kSliceOutputs = 16;  // of a tile
constexpr int64_t kSliceInputs = 64;
constexpr int64_t kSliceBytes = kSliceOutputs * kSliceInputs;
constexpr int64_t kSliceRows = 16;  // samples that are multiplied at once

struct SliceView {
  // Tile (output tile, input tile, slice), the highest slice first: 16 rows of 64 bytes; row r holds, for each of the
  // 16 outputs, the digits of inputs 4r .. 4r + 3.
  const int8_t* digits;
  const float* scale;  // (16 * output_tiles), and so is bias
  const float* bias;
  int64_t output_tiles, input_tiles;
  int slices;
  bool in_doubt;  // spikes have to be those of the canonical sums, and these are not: certain_slices.h
};

}  // namespace snnfast
