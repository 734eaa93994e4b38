// SPDX-License-Identifier: Apache-2.0
// Code "rate": copies of integrate-and-fire neurons, or signed ones, all layers at every step.
#pragma once

#include "cpu/coded_sample.h"
#include "cpu/copies.h"

namespace snnfast {
namespace {

// One step of n vectors of neurons, all copies, under the currents in `sent`, which become what they send. `net` is
// Signed's.
template <bool Signed, bool Even>
SNNFAST_INLINE void step_vectors(const CopiesOf& copies, float* mem, float* net, Vec* sent, int n) {
#pragma GCC unroll 4
  for (int v = 0; v < n; ++v) {
    const int64_t at = v * Vec::lanes;
    Vec membrane = load(mem + at), before = Signed ? load(net + at) : broadcast(0.0f);
    sent[v] = copies.step<Signed, Even>(membrane, before, sent[v]);
    store(mem + at, membrane);
    if constexpr (Signed) store(net + at, before);
  }
}

// Of levels that are rare, so that their code is there once.
template <bool Signed>
__attribute__((noinline)) void step_vectors_of_any_levels(const CopiesOf& copies, float* mem, float* net, Vec* sent,
                                                          int n) {
  step_vectors<Signed, false>(copies, mem, net, sent, n);
}

template <bool Signed, int V>
SNNFAST_INLINE void step_panel(const CopiesOf& copies, float* mem, float* net, Vec (&sent)[V]) {
  if (copies.even()) {
    step_vectors<Signed, true>(copies, mem, net, sent, V);
  } else {
    step_vectors_of_any_levels<Signed>(copies, mem, net, sent, V);
  }
}

template <bool Signed>
void rate_layer_step(const NetworkView& net, const Request& request, int64_t l, int64_t t, CodedSample& s) {
  constexpr int L = Vec::lanes;
  const LayerView& layer = net.layers[l];
  const CodeView& code = *net.code;
  const CopiesOf copies(code);
  const CodedRecord record = record_of(net, request, l, t, s.row);
  for_panels(layer, [&](auto vectors, int64_t begin, const float* weights) {
    constexpr int V = decltype(vectors)::value;
    Vec sent[V];  // what arrives, at first
    if (l == 0) {
      for (int v = 0; v < V; ++v) sent[v] = load(s.constant + begin + v * L);
    } else {
      if (code.whole_products) {
        panel_current<V, true>(weights, s, sent);
      } else {
        panel_current<V>(weights, s, sent);
      }
      for (int v = 0; v < V; ++v) sent[v] = sent[v] + load(layer.bias + begin + v * L);
    }
    float* mem = s.state + code.layers[l].offset + begin;
    step_panel<Signed, V>(copies, mem, s.sent + code.layers[l].offset + begin, sent);
    for (int v = 0; v < V; ++v) store(s.next + begin + v * L, sent[v]);
    if (record.spikes) write_lanes(record.spikes, begin, layer.n_out, sent, V);
    if (record.counts) {
      for (int v = 0; Signed && v < V; ++v) sent[v] = magnitude(sent[v]);
      add_lanes(record.counts, begin, layer.n_out, sent, V);
    }
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
