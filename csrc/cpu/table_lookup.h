// SPDX-License-Identifier: Apache-2.0
// From a layer's input spikes, as bits of one word, to its current: one load instead of up to 16 additions.
#pragma once

#include "cpu/simd.h"
#include "cpu/table.h"

namespace snnfast {
namespace {

// Rows that are added without asking whether there are so many; those past the end are zeros, which change no bit.
constexpr int kRestAtOnce = 3;

// The entry at `offset` bytes.
template <int V, class T>
SNNFAST_INLINE void look_up_at(const TableView& table, uint32_t offset, T (&h)[V]) {
  const float* const entry = reinterpret_cast<const float*>(reinterpret_cast<const char*>(table.entries) + offset);
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) h[v] = load_as<T>(entry + v * T::lanes);
}

// All: the table holds all inputs.
template <bool All, int V, class T>
SNNFAST_INLINE void look_up(const TableView& table, uint32_t spikes, T (&h)[V]) {
  constexpr int L = T::lanes;
  constexpr uint32_t bytes = V * L * sizeof(float);
  look_up_at(table, (All ? table_slot(spikes) : spikes & table.pattern) * bytes, h);
  if constexpr (!All) {
    uint32_t rest = spikes >> table.prefix;
    while (rest) {
#pragma GCC unroll 4
      for (int i = 0; i < kRestAtOnce; ++i) {
        const float* weights = table.rest + static_cast<int64_t>(__builtin_ctz(rest | table.end)) * (V * L);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) h[v] = h[v] + load_as<T>(weights + v * L);
        rest &= rest - 1;
      }
    }
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) h[v] = h[v] + load_as<T>(table.bias + v * L);
  }
}

}  // namespace
}  // namespace snnfast
