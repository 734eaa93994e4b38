// SPDX-License-Identifier: Apache-2.0
// Code "rate": copies of integrate-and-fire neurons, or signed ones, all layers at every step.
#pragma once

#include "cpu/coded_arrivals.h"
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

// Recorded: spikes, counts or potentials are asked for.
template <bool Signed, bool Recorded>
void rate_layer_step(const NetworkView& net, const Request& request, int64_t l, int64_t t, CodedSample& s) {
  const LayerView& layer = net.layers[l];
  const CodeView& code = *net.code;
  const CopiesOf copies(code);
  const CodedRecord record = record_of(net, request, l, t, s.row);
  float *const mem = s.state + code.layers[l].offset, *const before = s.sent + code.layers[l].offset,
               *const next = s.next;
  const Arrived arrived(layer, l, s);
  const int64_t padded = layer.padded, n = layer.n_out;
  for (int64_t j = 0; j < padded; j += Vec::lanes) {
    Vec sent[1] = {arrived.current(j)};  // what arrives, at first
    step_panel<Signed, 1>(copies, mem + j, before + j, sent);
    store(next + j, sent[0]);
    if constexpr (!Recorded) continue;
    if (record.spikes) write_lanes(record.spikes, j, n, sent, 1);
    if (record.counts) {
      if constexpr (Signed) sent[0] = magnitude(sent[0]);
      add_lanes(record.counts, j, n, sent, 1);
    }
    if (record.potentials) {
      const Vec membrane = load(mem + j);
      write_lanes(record.potentials, j, n, &membrane, 1);
    }
  }
  send(layer, s);
}

// The last layer: its currents add up, to a potential, and to a weighted sum for the other read-outs.
inline void rate_output_step(const NetworkView& net, const Request& request, int64_t t, CodedSample& s) {
  const int64_t l = net.n_layers - 1;
  const LayerView& layer = net.layers[l];
  const CodedRecord record = record_of(net, request, l, t, s.row);
  const bool leaves = net.code->exit != static_cast<int>(ExitKind::none);
  const Arrived arrived(layer, l, s);
  for (int64_t j = 0; j < layer.padded; j += Vec::lanes) {
    const Vec h = arrived.current(j), total = load(s.output + j) + h, weighs = leaves ? total : h;
    store(s.output + j, total);
    const Vec term = net.code->step_weights ? broadcast(net.code->step_weights[t]) * weighs : total;
    store(s.weighted + j, load(s.weighted + j) + term);
    if (record.potentials) write_lanes(record.potentials, j, layer.n_out, &total, 1);
  }
  const float* decoded = net.decoding == static_cast<int>(Decoding::potential) ? s.output : s.weighted;
  const float divisor = net.code->divisors                                           ? net.code->divisors[t]
                        : net.decoding == static_cast<int>(Decoding::mean_potential) ? static_cast<float>(net.timesteps)
                                                                                     : 1.0f;
  for (int64_t j = 0; j < layer.n_out; ++j) s.running[j] = decoded[j] / divisor;
}

}  // namespace
}  // namespace snnfast
