// SPDX-License-Identifier: Apache-2.0
// From a layer's input spikes, as bits of one word, to its current: one load instead of up to 16 additions.
#pragma once

#include "cpu/simd.h"
#include "cpu/table.h"

namespace snnfast {
namespace {

// Rows that are added without asking whether there are so many; those past the end are zeros, which change no bit.
constexpr int kRestAtOnce = 3;

// In place of words of spikes, where a table of all inputs and more than a few outputs has their entries.
inline void to_slots(uint16_t* spikes, int64_t steps) {
  constexpr int64_t kWhole = 32;  // words at once; those behind the last step are of no use anyway
  using Words = uint16_t __attribute__((vector_size(sizeof(uint16_t) * kWhole)));
  for (int64_t t = 0; t < steps; t += kWhole) {
    Words words;
    __builtin_memcpy(&words, spikes + t, sizeof words);
    turn_to_slots(words);
    __builtin_memcpy(spikes + t, &words, sizeof words);
  }
}

#if defined(__AVX512F__) && defined(__AVX512DQ__)
SNNFAST_INLINE __m512i table_slots(__m512i words) {  // of 16 bits: table_slot
  const __m512i a = _mm512_srli_epi16(words, 3), b = _mm512_srli_epi16(words, 10);
  return _mm512_ternarylogic_epi32(words, a, b, 0x96);  // exclusive or of the three
}
#endif

// The entry in a slot; Stride: the table's, 0: not known beforehand.
template <int64_t Stride = 0, int V, class T>
SNNFAST_INLINE void look_up_at(const TableView& table, uint32_t slot, T (&h)[V]) {
  constexpr int64_t width = V * T::lanes;
  const int64_t stride = Stride > 0 ? Stride : width > kFewOutputs ? width : table.stride;
  const float* const entry = table.entries + static_cast<int64_t>(slot) * stride;
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) h[v] = load_as<T>(entry + v * T::lanes);
}

// All: the table holds all inputs.
template <bool All, int V, class T>
SNNFAST_INLINE void look_up(const TableView& table, uint32_t spikes, T (&h)[V]) {
  constexpr int L = T::lanes;
  look_up_at(table, All ? table_slot(spikes, V * L) : spikes & table.pattern, h);
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
