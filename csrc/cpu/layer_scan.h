// SPDX-License-Identifier: Apache-2.0
// The neuron step of one panel of one layer over a tile of time steps, for one sample, with the panel's state in
// registers all the while. Its currents are there: constant, or made by event_currents.h.
#pragma once

#include "core/neuron.h"
#include "cpu/event_currents.h"
#include "cpu/panels.h"
#include "cpu/simd.h"

namespace snnfast {
namespace {

struct Scan {
  const float* current;  // of step t at current[t * current_stride]
  int64_t current_stride;
  float *mem, *syn;
  float* total;           // sum of membrane potentials over the steps, or null
  PanelBits* spike_bits;  // of step t at spike_bits[t * stride]; unused where the layer does not fire
  int64_t stride;
  float* potentials;  // of step t at potentials[t * potentials_stride], or null
  int64_t potentials_stride;
  int64_t valid;  // outputs of this panel that are not padding
  int64_t steps;
};

template <class Rule, int V>
void scan_panel(const Scan& a, const NeuronConstants<EagerVec>& constants) {
  constexpr int L = Vec::lanes;
  EagerVec mem[V], syn[V];
  for (int v = 0; v < V; ++v) {
    mem[v] = load(a.mem + v * L);
    syn[v] = load(a.syn + v * L);
  }
  for (int64_t t = 0; t < a.steps; ++t) {
    const float* const h = a.current + t * a.current_stride;
    PanelBits spiked = 0;
    for (int v = 0; v < V; ++v) {
      const auto mask = Rule::step(mem[v], syn[v], load_as<EagerVec>(h + v * L), constants);
      if constexpr (Rule::fires)
        spiked = static_cast<PanelBits>(spiked | static_cast<PanelBits>(bits(mask)) << (v * L));
    }
    if constexpr (Rule::fires) a.spike_bits[t * a.stride] = spiked;
    if (a.total) {
      for (int v = 0; v < V; ++v) store(a.total + v * L, load(a.total + v * L) + mem[v]);
    }
    if (a.potentials) {
      float copy[V * L];
      for (int v = 0; v < V; ++v) store(copy + v * L, mem[v]);
      __builtin_memcpy(a.potentials + t * a.potentials_stride, copy, static_cast<size_t>(a.valid) * sizeof(float));
    }
  }
  for (int v = 0; v < V; ++v) {
    store(a.mem + v * L, mem[v]);
    store(a.syn + v * L, syn[v]);
  }
}

}  // namespace
}  // namespace snnfast
