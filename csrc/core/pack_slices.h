// SPDX-License-Identifier: Apache-2.0
// From a layer's weights as integers to slices of eight bits, and whether their sums are exact.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "core/integer_rows.h"
#include "core/slices.h"

namespace snnfast {

constexpr int32_t kMostInTwoSlices = 127 * 256 + 127;

struct SlicedLayer {
  std::vector<IntegerRow> rows;
  int slices = kFewestSlices;
};

inline SlicedLayer sliced_rows(std::vector<IntegerRow> rows) {
  SlicedLayer sliced{std::move(rows)};
  for (const IntegerRow& row : sliced.rows) {
    if (row.largest > kMostInTwoSlices) sliced.slices = 3;
  }
  return sliced;
}

// Nothing if the layer cannot be sliced: too many inputs for sums of 32 bits, too large numbers, or, where the result
// must be exact, weights that do not lie on a grid.
inline std::optional<SlicedLayer> slice_layer(const LayerSpec& layer, bool exact) {
  constexpr int64_t kMostInputs = 32768;
  if (layer.n_in > kMostInputs) return std::nullopt;
  std::optional<std::vector<IntegerRow>> rows = integer_rows(layer, exact);
  if (!rows) return std::nullopt;
  SlicedLayer sliced = sliced_rows(std::move(*rows));
  // Three slices are joined through the sum of the lower two, which must be exact by itself.
  constexpr int64_t kMostExactInputs = (int64_t{1} << 24) / (128 * 256 + 128);
  if (exact && sliced.slices == 3 && layer.n_in > kMostExactInputs) return std::nullopt;
  return sliced;
}

// The digit of an integer in base 256 that belongs to a slice, the highest first; digits run from -128 to 127.
inline int8_t digit(int32_t integer, int slices, int slice) {
  int32_t rest = integer;
  int8_t found = 0;
  for (int i = slices - 1; i >= slice; --i) {
    found = static_cast<int8_t>(static_cast<uint8_t>(rest & 255));
    rest = (rest - found) / 256;
  }
  return found;
}

}  // namespace snnfast
