// SPDX-License-Identifier: Apache-2.0
// Code "rate": copies of integrate-and-fire neurons, or signed ones, all layers at every step.
#pragma once

#include "cpu/coded_sample.h"

namespace snnfast {
namespace {

// One step of the copies of a panel's neurons, all with the same current h.
template <bool Signed, int V>
SNNFAST_INLINE void step_copies(const CodeView& code, const LayerView& layer, float* mem, float* net, const Vec (&h)[V],
                                const NeuronConstants<Vec>& constants, Vec (&sum)[V], Vec (&spikes)[V]) {
  constexpr int L = Vec::lanes;
  using Rule = NeuronRule<false, Reset::subtraction, false, false>;
  const Vec zero = broadcast(0.0f), one = broadcast(1.0f);
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) sum[v] = spikes[v] = zero;
  for (int64_t k = 0; k < code.copies; ++k) {
    float* m = mem + k * layer.padded;
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      Vec membrane = load(m + v * L), none = zero, spike;
      if constexpr (Signed) {
        float* n = net + k * layer.padded;
        Vec before = load(n + v * L);
        spike = signed_step(membrane, before, h[v], constants, zero, one);
        store(n + v * L, before);
        spikes[v] = spikes[v] + spike * spike;
      } else {
        spike = keep_where(Rule::step(membrane, none, h[v], constants), one);
      }
      store(m + v * L, membrane);
      sum[v] = sum[v] + spike;
    }
  }
  if constexpr (!Signed) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) spikes[v] = sum[v];
  }
}

template <bool Signed>
void rate_layer_step(const NetworkView& net, const Request& request, int64_t l, int64_t t, CodedSample& s) {
  constexpr int L = Vec::lanes;
  const LayerView& layer = net.layers[l];
  const CodeView& code = *net.code;
  const NeuronConstants<Vec> constants = vector_constants(net);
  const CodedRecord record = record_of(net, request, l, t, s.row);
  for_panels(layer, [&](auto vectors, int64_t begin, const float* weights) {
    constexpr int V = decltype(vectors)::value;
    Vec h[V], sum[V], spikes[V];
    if (l == 0) {
      for (int v = 0; v < V; ++v) h[v] = load(s.constant + begin + v * L);
    } else {
      panel_current<V>(weights, s, h);
      for (int v = 0; v < V; ++v) h[v] = h[v] + load(layer.bias + begin + v * L);
    }
    float* mem = s.state + code.layers[l].offset + begin;
    step_copies<Signed, V>(code, layer, mem, s.sent + code.layers[l].offset + begin, h, constants, sum, spikes);
    for (int v = 0; v < V; ++v) store(s.next + begin + v * L, sum[v]);
    if (record.counts) add_lanes(record.counts, begin, layer.n_out, spikes, V);
    if (record.spikes) write_lanes(record.spikes, begin, layer.n_out, sum, V);
    if (record.potentials) {
      Vec first[V];
      for (int v = 0; v < V; ++v) first[v] = load(mem + v * L);
      write_lanes(record.potentials, begin, layer.n_out, first, V);
    }
  });
  send(layer, s);
}

// The last layer: its currents add up, to a potential, and to a weighted sum for the other read-outs.
inline void rate_output_step(const NetworkView& net, const Request& request, int64_t t, CodedSample& s) {
  constexpr int L = Vec::lanes;
  const int64_t l = net.n_layers - 1;
  const LayerView& layer = net.layers[l];
  const CodedRecord record = record_of(net, request, l, t, s.row);
  const bool leaves = net.code->exit != static_cast<int>(ExitKind::none);
  for_panels(layer, [&](auto vectors, int64_t begin, const float* weights) {
    constexpr int V = decltype(vectors)::value;
    Vec h[V], total[V];
    if (l == 0) {
      for (int v = 0; v < V; ++v) h[v] = load(s.constant + begin + v * L);
    } else {
      panel_current<V>(weights, s, h);
      for (int v = 0; v < V; ++v) h[v] = h[v] + load(layer.bias + begin + v * L);
    }
    for (int v = 0; v < V; ++v) {
      const int64_t at = begin + v * L;
      total[v] = load(s.output + at) + h[v];
      store(s.output + at, total[v]);
      const Vec weighs = leaves ? total[v] : h[v];
      const Vec term = net.code->step_weights ? broadcast(net.code->step_weights[t]) * weighs : total[v];
      store(s.weighted + at, load(s.weighted + at) + term);
    }
    if (record.potentials) write_lanes(record.potentials, begin, layer.n_out, total, V);
  });
  const float* decoded = net.decoding == static_cast<int>(Decoding::potential) ? s.output : s.weighted;
  const float divisor = net.code->divisors                                           ? net.code->divisors[t]
                        : net.decoding == static_cast<int>(Decoding::mean_potential) ? static_cast<float>(net.timesteps)
                                                                                     : 1.0f;
  for (int64_t j = 0; j < layer.n_out; ++j) s.running[j] = decoded[j] / divisor;
}

}  // namespace
}  // namespace snnfast
