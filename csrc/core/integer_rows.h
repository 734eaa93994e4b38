// SPDX-License-Identifier: Apache-2.0
// A layer's weights as integers of at most 24 bits, row by row, so that sums of them are exact in every order: which
// power of two a row is counted in, and whether anything is lost.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <vector>

#include "core/spec.h"

namespace snnfast {

constexpr int32_t kMostInteger = 127 * (65536 + 256 + 1);  // what three signed bytes hold for both signs alike

// One output's weights as integers times 2^exponent.
struct IntegerRow {
  int exponent = 0;
  std::vector<int32_t> integers;
  int32_t largest = 0;
};

// The row's integers if all its weights are multiples of one power of two, and so small that every partial sum of
// theirs is exact in float32: then every order of summation gives the same bits.
inline std::optional<IntegerRow> row_on_grid(const float* weights, int64_t n) {
  IntegerRow row;
  int lowest = 1000;  // exponent of the lowest bit set in any weight
  for (int64_t k = 0; k < n; ++k) {
    if (weights[k] == 0.0f) continue;
    int exponent;
    const auto mantissa = static_cast<int32_t>(std::ldexp(std::frexp(weights[k], &exponent), 24));
    lowest = std::min(lowest, exponent - 24 + __builtin_ctz(static_cast<unsigned>(std::abs(mantissa))));
  }
  row.exponent = lowest == 1000 ? 0 : lowest;
  row.integers.reserve(static_cast<size_t>(n));
  const double per_unit = std::ldexp(1.0, -row.exponent);  // a power of two: products are exact
  double sum = 0.0;
  for (int64_t k = 0; k < n; ++k) {
    const double integer = static_cast<double>(weights[k]) * per_unit;
    sum += std::abs(integer);
    if (sum >= 0x1p24) return std::nullopt;
    row.integers.push_back(static_cast<int32_t>(integer));
    row.largest = std::max(row.largest, std::abs(row.integers.back()));
  }
  if (row.largest > kMostInteger) return std::nullopt;
  return row;
}

// The row rounded to 24 bits below its largest weight; to fewer where the sum of some of the integers would exceed
// `most_sum`.
inline IntegerRow rounded_row(const float* weights, int64_t n, int64_t most_sum) {
  float largest = 0.0f;
  for (int64_t k = 0; k < n; ++k) largest = std::max(largest, std::abs(weights[k]));
  IntegerRow row;
  row.exponent = std::max(-149, largest == 0.0f ? 0 : std::ilogb(largest) - 22);
  row.integers.reserve(static_cast<size_t>(n));
  for (bool fits = false; !fits;) {
    fits = true;
    const double per_unit = std::ldexp(1.0, -row.exponent);
    row.integers.clear();
    row.largest = 0;
    int64_t positive = 0, negative = 0;
    for (int64_t k = 0; k < n && fits; ++k) {
      const double nearest = std::nearbyint(static_cast<double>(weights[k]) * per_unit);
      fits = std::abs(nearest) <= kMostInteger;
      if (!fits) break;
      const auto integer = static_cast<int32_t>(nearest);
      (integer < 0 ? negative : positive) += std::abs(integer);
      fits = std::max(positive, negative) <= most_sum;
      row.integers.push_back(integer);
      row.largest = std::max(row.largest, std::abs(integer));
    }
    if (!fits) ++row.exponent;
  }
  return row;
}

// All rows of a layer; nothing if sums of its weights exceed what a float holds or, where sums must be exact, if its
// weights do not lie on a grid.
inline std::optional<std::vector<IntegerRow>> integer_rows(const LayerSpec& layer, bool exact,
                                                           int64_t most_sum = INT64_MAX) {
  std::vector<IntegerRow> rows;
  for (int64_t j = 0; j < layer.n_out; ++j) {
    const float* weights = layer.weights.data() + j * layer.n_in;
    double sum = 0.0;
    for (int64_t k = 0; k < layer.n_in; ++k) sum += std::abs(static_cast<double>(weights[k]));
    if (sum > 1e38) return std::nullopt;
    std::optional<IntegerRow> row = row_on_grid(weights, layer.n_in);
    if (!row && exact) return std::nullopt;
    rows.push_back(row ? std::move(*row) : rounded_row(weights, layer.n_in, most_sum));
  }
  return rows;
}

}  // namespace snnfast
