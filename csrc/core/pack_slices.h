// SPDX-License-Identifier: Apache-2.0
// From a layer's weights to slices of eight bits: which power of two a row is counted in, and whether that is exact.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <vector>

#include "core/slices.h"
#include "core/spec.h"

namespace snnfast {

// One output's weights as integers times 2^exponent.
struct SlicedRow {
  int exponent = 0;
  std::vector<int32_t> integers;
  int32_t largest = 0;
};

constexpr int32_t kMostInTwoSlices = 127 * 256 + 127;
constexpr int32_t kMostInThreeSlices = kMostInTwoSlices * 256 + 127;

// The row's integers if all its weights are multiples of one power of two, and so small that every partial sum of
// theirs is exact in float32: then every order of summation gives the same bits.
inline std::optional<SlicedRow> row_on_grid(const float* weights, int64_t n) {
  SlicedRow row;
  int lowest = 1000;  // exponent of the lowest bit set in any weight
  for (int64_t k = 0; k < n; ++k) {
    if (weights[k] == 0.0f) continue;
    int exponent;
    const auto mantissa = static_cast<int32_t>(std::ldexp(std::frexp(weights[k], &exponent), 24));
    lowest = std::min(lowest, exponent - 24 + __builtin_ctz(static_cast<unsigned>(std::abs(mantissa))));
  }
  row.exponent = lowest == 1000 ? 0 : lowest;
  double sum = 0.0;
  for (int64_t k = 0; k < n; ++k) {
    const double integer = std::ldexp(static_cast<double>(weights[k]), -row.exponent);
    sum += std::abs(integer);
    if (sum >= 0x1p24) return std::nullopt;
    row.integers.push_back(static_cast<int32_t>(integer));
    row.largest = std::max(row.largest, std::abs(row.integers.back()));
  }
  if (row.largest > kMostInThreeSlices) return std::nullopt;
  return row;
}

// The row rounded to 24 bits below its largest weight.
inline SlicedRow rounded_row(const float* weights, int64_t n) {
  float largest = 0.0f;
  for (int64_t k = 0; k < n; ++k) largest = std::max(largest, std::abs(weights[k]));
  SlicedRow row;
  row.exponent = std::max(-149, largest == 0.0f ? 0 : std::ilogb(largest) - 22);
  for (bool fits = false; !fits;) {
    fits = true;
    row.integers.clear();
    row.largest = 0;
    for (int64_t k = 0; k < n && fits; ++k) {
      const double integer = std::nearbyint(std::ldexp(static_cast<double>(weights[k]), -row.exponent));
      fits = std::abs(integer) <= kMostInThreeSlices;
      if (fits) row.integers.push_back(static_cast<int32_t>(integer));
      if (fits) row.largest = std::max(row.largest, std::abs(row.integers.back()));
    }
    if (!fits) ++row.exponent;
  }
  return row;
}

struct SlicedLayer {
  std::vector<SlicedRow> rows;
  int slices = kFewestSlices;
};

// Nothing if the layer cannot be sliced: too many inputs for sums of 32 bits, too large numbers, or, where the result
// must be exact, weights that do not lie on a grid.
inline std::optional<SlicedLayer> slice_layer(const LayerSpec& layer, bool exact) {
  constexpr int64_t kMostInputs = 32768;
  if (layer.n_in > kMostInputs) return std::nullopt;
  SlicedLayer sliced;
  for (int64_t j = 0; j < layer.n_out; ++j) {
    const float* weights = layer.weights.data() + j * layer.n_in;
    double sum = 0.0;
    for (int64_t k = 0; k < layer.n_in; ++k) sum += std::abs(static_cast<double>(weights[k]));
    if (sum > 1e38) return std::nullopt;
    std::optional<SlicedRow> row = row_on_grid(weights, layer.n_in);
    if (!row && exact) return std::nullopt;
    sliced.rows.push_back(row ? std::move(*row) : rounded_row(weights, layer.n_in));
    if (sliced.rows.back().largest > kMostInTwoSlices) sliced.slices = 3;
  }
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
