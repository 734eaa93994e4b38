// SPDX-License-Identifier: Apache-2.0
// The neuron step of a panel of a layer, or of two neighbours, over a tile of time steps, for one sample, with their
// state in registers all the while. Their currents are there: constant, or made by event_currents.h.
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
  float *mem, *syn;   // syn: of rules that carry it from step to step
  float* total;       // sum of membrane potentials over the steps, or null
  char* spike_bits;   // of step t from spike_bits[t * stride] on; unused where the layer does not fire
  int64_t stride;     // in bytes
  float* potentials;  // of step t at potentials[t * potentials_stride], or null
  int64_t potentials_stride;
  int64_t valid;  // outputs that are not padding
  int64_t steps;
};

// V vectors of type T. Inlined, so that what `a` says stays in registers.
template <class Rule, int V, class T>
SNNFAST_INLINE void scan_panels(const Scan& a, const NeuronConstants<T>& constants) {
  constexpr int L = Vec::lanes;
  T mem[V], syn[V];
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) {
    mem[v] = load(a.mem + v * L);
    syn[v] = broadcast_as<T>(0.0f);
    if constexpr (Rule::has_synapse) syn[v] = load(a.syn + v * L);
  }
  for (int64_t t = 0; t < a.steps; ++t) {
    const float* const h = a.current + t * a.current_stride;
    char* const spiked = a.spike_bits + t * a.stride;
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      const auto mask = Rule::step(mem[v], syn[v], load_as<T>(h + v * L), constants);
      if constexpr (Rule::fires) store_bits(spiked, v, mask);
    }
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
    if constexpr (Rule::has_synapse) store(a.syn + v * L, syn[v]);
  }
}

// Up to a panel.
template <class Rule>
__attribute__((noinline)) void scan_sample(const NetworkView& net, const Scan& scan, int64_t vectors) {
  with_vectors(vectors,
               [&](auto count) { scan_panels<Rule, decltype(count)::value>(scan, vector_constants<EagerVec>(net)); });
}

}  // namespace
}  // namespace snnfast
