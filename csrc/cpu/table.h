// SPDX-License-Identifier: Apache-2.0
// Which networks the method "tables" serves, and how its tables are laid out.
#pragma once

#include <cstdint>

namespace snnfast {

constexpr int64_t kTableWidth = 16;     // most inputs and outputs of a layer that is looked up
constexpr int64_t kTableMaxHidden = 2;  // most spiking layers

// The current of a layer for every pattern of input spikes: entry m, `width` floats, is the current for input bits m.
// Each entry is the canonical sum, inputs ascending and the bias last, so looking it up changes no bit.
struct TableView {
  const float* entries;
  int64_t width;
};

}  // namespace snnfast
