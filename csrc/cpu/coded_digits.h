// SPDX-License-Identifier: Apache-2.0
// Code "digits": every layer at every step, each sending a digit of what it has still to send.
#pragma once

#include "cpu/coded_exit.h"

namespace snnfast {
namespace {

// Whether one of a layer's drives is above 1, or no number.
inline bool is_beyond(const LayerView& layer, const float* drives) {
  const Vec one = broadcast(1.0f);
  Mask within = at_least(one, one);
  for (int64_t j = 0; j < layer.padded; j += Vec::lanes) within = both(within, at_least(one, load(drives + j)));
  return bits(within) != bits(at_least(one, one));
}

inline bool any_beyond(const NetworkView& net, const CodedSample& s) {
  bool any = false;
  for (int64_t l = 0; l + 1 < net.n_layers; ++l) any = any || s.beyond[l];
  return any;
}

// What the layer before has sent is added to a layer's drives.
inline void digits_arrive(const LayerView& layer, float* drives, const CodedSample& s) {
  constexpr int L = Vec::lanes;
  for_panels(layer, [&](auto vectors, int64_t begin, const float* weights) {
    constexpr int V = decltype(vectors)::value;
    Vec h[V];
    panel_current<V>(weights, s, h);
    for (int v = 0; v < V; ++v) store(drives + begin + v * L, load(drives + begin + v * L) + h[v]);
  });
}

template <bool Signed>
void digits_layer_step(const NetworkView& net, const Request& request, int64_t l, int64_t t, CodedSample& s) {
  constexpr int L = Vec::lanes;
  const LayerView& layer = net.layers[l];
  const CodeLayerView& tables = net.code->layers[l];
  float* const drives = s.state + tables.offset;
  float* const sents = s.sent + tables.offset;
  if (l > 0 && s.n_ids > 0) {  // or no drive changes
    digits_arrive(layer, drives, s);
    s.beyond[l] = is_beyond(layer, drives);
  }
  const CodedRecord record = record_of(net, request, l, t, s.row);
  if (!tables.active[t] && !record.spikes && !record.potentials) {
    s.n_ids = 0;
    return;
  }
  const Vec zero = broadcast(0.0f), one = broadcast(1.0f);
  for_panels(layer, [&](auto vectors, int64_t begin, const float*) {
    constexpr int V = decltype(vectors)::value;
    const int64_t row = t * layer.padded + begin;
    Vec digits[V], left[V], spikes[V];
    for (int v = 0; v < V; ++v) {
      const int64_t at = begin + v * L;
      const Vec drive = load(drives + at), value = load(tables.values + row + v * L),
                threshold = load(tables.thresholds + row + v * L);
      Vec sent = load(sents + at);
      const Vec wanted = tables.guards ? drive - load(tables.guards + row + v * L) : drive;
      Mask fired;
      digits[v] = digit_step<Signed>(clip(wanted, zero, one), sent, value, threshold, one, fired);
      spikes[v] = keep_where(fired, one);
      left[v] = clip(drive, zero, one) - sent;
      store(sents + at, sent);
      store(s.next + at, digits[v] * value);
    }
    if (record.spikes) write_lanes(record.spikes, begin, layer.n_out, digits, V);
    if (record.counts) add_lanes(record.counts, begin, layer.n_out, spikes, V);
    if (record.potentials) write_lanes(record.potentials, begin, layer.n_out, left, V);
  });
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

// Whether no drive can end above what certificates hold for.
inline bool digits_inside(const NetworkView& net, int64_t t, const CodedSample& s) {
  const Vec terms = broadcast(s.terms), zero = broadcast(0.0f);
  Mask inside = at_least(zero, zero);
  for (int64_t l = 0; l + 1 < net.n_layers; ++l) {
    const CodeLayerView& tables = net.code->layers[l];
    const LayerView& layer = net.layers[l];
    const Vec most = broadcast(most_drive(net, l));
    for (int64_t j = 0; j < layer.padded; j += Vec::lanes) {
      const Vec moves = load(tables.drift + t * layer.padded + j) + terms * load(tables.rounding + j);
      inside = both(inside, at_least(most, load(s.state + tables.offset + j) + moves));
    }
    if (bits(inside) != bits(at_least(zero, zero))) return false;
  }
  return true;
}

inline bool digits_are_certain_now(const NetworkView& net, int64_t t, CodedSample& s) {
  if (any_beyond(net, s) || !digits_inside(net, t, s)) return false;
  const int64_t l = net.n_layers - 2;
  const LayerView &hidden = net.layers[l], &last = net.layers[l + 1];
  const CodeLayerView& tables = net.code->layers[l];
  const DigitsLeft left{s.state + tables.offset, s.sent + tables.offset, tables.drift + t * hidden.padded,
                        tables.rounding, s.terms};
  return digits_may_be_certain(*net.code, hidden, last, left, s.running) &&
         digits_are_certain(*net.code, hidden, last, left, s.running, s.weighted);
}

}  // namespace
}  // namespace snnfast
