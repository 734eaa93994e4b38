// SPDX-License-Identifier: Apache-2.0
// One panel of one layer over a tile of time steps, for one sample: the weighted sum of the inputs that spiked, then
// the neuron step, with the panel's state in registers all the while.
//
// Event-driven and exact: adding the weight rows of the active inputs, ascending, gives the same bits as multiplying
// every weight by 0 or 1 and adding, because x + 0 is x (sums begin at +0, so no sum is ever -0).
#pragma once

#include "core/neuron.h"
#include "cpu/kernels.h"
#include "cpu/panels.h"
#include "cpu/simd.h"

namespace snnfast {
namespace {

// The inputs that spiked, per step of the tile: ids[offsets[t]] .. ids[offsets[t + 1] - 1], ascending.
struct Events {
  uint32_t* ids;
  int64_t* offsets;
};

// The spikes of one panel in one step: one bit per neuron. Panels lie side by side, so a row of them is a row of bits.
#if defined(__AVX512F__) && defined(__AVX512DQ__)
using PanelBits = uint64_t;
#elif defined(__AVX2__)
using PanelBits = uint32_t;
#else
using PanelBits = uint16_t;
#endif
static_assert(sizeof(PanelBits) * 8 == kPanel, "a panel's spikes fill its word");

struct Scan {
  const float* weights;   // the panel's rows
  const float* bias;      // the panel's part of the layer's arrays, here and below
  const float* constant;  // current of every step, or null: then `events` make it
  const Events* events;
  float *mem, *syn;
  float* total;           // sum of membrane potentials over the steps, or null
  PanelBits* spike_bits;  // of step t at spike_bits[t * stride]; unused where the layer does not fire
  int64_t stride;
  float* potentials;  // of step t at potentials[t * potentials_stride], or null
  int64_t potentials_stride;
  int64_t valid;  // outputs of this panel that are not padding
  int64_t steps;
};

// How many time steps are summed side by side: enough independent chains of additions to hide their latency.
constexpr int group_of(int vectors) { return vectors == 1 ? 8 : vectors == 2 ? 4 : 2; }

// Currents of a panel for steps t .. t + G - 1, from events; (G, V, lanes) floats. One chain per step and vector.
template <int V, int G>
__attribute__((noinline)) void event_currents(const float* weights, const float* bias, const Events& events, int64_t t,
                                              float* currents) {
  constexpr int L = Vec::lanes;
  Vec h[G][V];
  const uint32_t *id[G], *end[G];
  int64_t common = events.offsets[t + 1] - events.offsets[t];
  for (int g = 0; g < G; ++g) {
    id[g] = events.ids + events.offsets[t + g];
    end[g] = events.ids + events.offsets[t + g + 1];
    if (end[g] - id[g] < common) common = end[g] - id[g];
    for (int v = 0; v < V; ++v) h[g][v] = broadcast(0.0f);
  }
  for (int64_t i = 0; i < common; ++i) {
#pragma GCC unroll 8
    for (int g = 0; g < G; ++g) {
      const float* row = weights + static_cast<int64_t>(id[g][i]) * (V * L);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) h[g][v] = h[g][v] + load(row + v * L);
    }
  }
#pragma GCC unroll 8
  for (int g = 0; g < G; ++g) {
    for (const uint32_t* rest = id[g] + common; rest != end[g]; ++rest) {
      const float* row = weights + static_cast<int64_t>(*rest) * (V * L);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) h[g][v] = h[g][v] + load(row + v * L);
    }
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store(currents + (g * V + v) * L, h[g][v] + load(bias + v * L));
  }
}

template <class Rule, int V>
void scan_panel(const Scan& a, const NeuronConstants<Vec>& constants) {
  constexpr int L = Vec::lanes, G = group_of(V);
  Vec mem[V], syn[V];
  for (int v = 0; v < V; ++v) {
    mem[v] = load(a.mem + v * L);
    syn[v] = load(a.syn + v * L);
  }
  float group[G * V * L];
  for (int64_t t = 0; t < a.steps; ++t) {
    const float* h = a.constant;
    if (!h) {
      const int64_t within = t % G;
      if (a.steps - (t - within) < G) {  // the last steps of a tile, too few for a group
        event_currents<V, 1>(a.weights, a.bias, *a.events, t, group);
        h = group;
      } else {
        if (within == 0) event_currents<V, G>(a.weights, a.bias, *a.events, t, group);
        h = group + within * (V * L);
      }
    }
    PanelBits spiked = 0;
    for (int v = 0; v < V; ++v) {
      const auto mask = Rule::step(mem[v], syn[v], load(h + v * L), constants);
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
