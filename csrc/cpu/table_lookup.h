// SPDX-License-Identifier: Apache-2.0
// From a layer's input spikes, as bits of one word, to its current: one load instead of up to 16 additions.
#pragma once

#include "cpu/simd.h"
#include "cpu/table.h"

namespace snnfast {
namespace {

// Rows that are added without asking whether there are so many; those past the end are zeros, which change no bit.
constexpr int kRestAtOnce = 3;

// All: the table holds all inputs.
template <int V, bool All>
SNNFAST_INLINE void look_up(const TableView& table, uint32_t spikes, Vec (&h)[V]) {
  constexpr int L = Vec::lanes;
  const float* row = table.entries + static_cast<int64_t>(All ? spikes : spikes & table.pattern) * (V * L);
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) h[v] = load(row + v * L);
  if constexpr (!All) {
    uint32_t rest = spikes >> table.prefix;
    while (rest) {
#pragma GCC unroll 4
      for (int i = 0; i < kRestAtOnce; ++i) {
        const float* weights = table.rest + static_cast<int64_t>(__builtin_ctz(rest | table.end)) * (V * L);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) h[v] = h[v] + load(weights + v * L);
        rest &= rest - 1;
      }
    }
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) h[v] = h[v] + load(table.bias + v * L);
  }
}

}  // namespace
}  // namespace snnfast
