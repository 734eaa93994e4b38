// SPDX-License-Identifier: Apache-2.0
// Code "digits": every layer at every step, each sending a digit of what it has still to send.
#pragma once

#include "cpu/coded_exit.h"

namespace snnfast {
namespace {

template <bool Signed>
void digits_layer_step(const NetworkView& net, const Request& request, int64_t l, int64_t t, CodedSample& s) {
  constexpr int L = Vec::lanes;
  const LayerView& layer = net.layers[l];
  const CodeLayerView& tables = net.code->layers[l];
  const CodedRecord record = record_of(net, request, l, t, s.row);
  const Vec zero = broadcast(0.0f), one = broadcast(1.0f);
  const Vec most = broadcast(most_drive(net, l)), terms = broadcast(tables.drift ? s.terms : 0.0f);
  constexpr uint32_t kAll = (uint32_t{1} << L) - 1;
  uint32_t within = kAll, inside = kAll;
  for_panels(layer, [&](auto vectors, int64_t begin, const float* weights) {
    constexpr int V = decltype(vectors)::value;
    float *drives = s.state + tables.offset + begin, *sents = s.sent + tables.offset + begin;
    const int64_t row = t * layer.padded + begin;
    Vec drive[V], digits[V], worth[V];
    if (l > 0) {
      panel_current<V>(weights, s, drive);
      for (int v = 0; v < V; ++v) {
        drive[v] = load(drives + v * L) + drive[v];
        store(drives + v * L, drive[v]);
      }
    } else {
      for (int v = 0; v < V; ++v) drive[v] = load(drives + v * L);
    }
    for (int v = 0; v < V; ++v) {
      Vec sent = load(sents + v * L);
      const Vec value = load(tables.values + row + v * L), threshold = load(tables.thresholds + row + v * L);
      const Vec wanted = tables.guards ? drive[v] - load(tables.guards + row + v * L) : drive[v];
      Mask fired;
      digits[v] = digit_step<Signed>(clip(wanted, zero, one), sent, value, threshold, one, fired);
      worth[v] = digits[v] * value;
      store(sents + v * L, sent);
      store(s.next + begin + v * L, worth[v]);
      within &= bits(at_least(one, drive[v]));
      if (tables.drift) {
        const Vec drift = load(tables.drift + row + v * L) + terms * load(tables.rounding + begin + v * L);
        inside &= bits(at_least(most, drive[v] + drift));
      }
    }
    if (record.spikes) write_lanes(record.spikes, begin, layer.n_out, digits, V);
    if (record.counts) {
      for (int v = 0; v < V; ++v) digits[v] = digits[v] * digits[v];
      add_lanes(record.counts, begin, layer.n_out, digits, V);
    }
    if (record.potentials) {
      for (int v = 0; v < V; ++v) drive[v] = clip(drive[v], zero, one) - load(sents + v * L);
      write_lanes(record.potentials, begin, layer.n_out, drive, V);
    }
  });
  s.above = s.above || within != kAll;
  s.inside = s.inside && inside == kAll;
  send(layer, s);
}

inline void digits_output_step(const NetworkView& net, const Request& request, int64_t t, CodedSample& s) {
  constexpr int L = Vec::lanes;
  const int64_t l = net.n_layers - 1;
  const LayerView& layer = net.layers[l];
  const CodedRecord record = record_of(net, request, l, t, s.row);
  for_panels(layer, [&](auto vectors, int64_t begin, const float* weights) {
    constexpr int V = decltype(vectors)::value;
    Vec h[V];
    panel_current<V>(weights, s, h);
    for (int v = 0; v < V; ++v) {
      h[v] = load(s.running + begin + v * L) + h[v];
      store(s.running + begin + v * L, h[v]);
    }
    if (record.potentials) write_lanes(record.potentials, begin, layer.n_out, h, V);
  });
}

inline bool digits_are_certain_now(const NetworkView& net, int64_t t, CodedSample& s) {
  if (!s.inside || s.above) return false;
  const int64_t l = net.n_layers - 2;
  const LayerView& hidden = net.layers[l];
  const CodeLayerView& tables = net.code->layers[l];
  return digits_are_certain(*net.code, hidden, net.layers[l + 1], s.state + tables.offset, s.sent + tables.offset,
                            tables.drift + t * hidden.padded, tables.rounding, s.terms, s.running, s.weighted);
}

}  // namespace
}  // namespace snnfast
