// SPDX-License-Identifier: Apache-2.0
// Code "digits": every layer at every step, each sending a digit of what it has still to send.
#pragma once

#include "cpu/coded_arrivals.h"
#include "cpu/coded_exit.h"

namespace snnfast {
namespace {

// Whether one of a layer's drives is above 1, or no number.
inline bool is_beyond(const LayerView& layer, const float* drives) {
  const Vec one = broadcast(1.0f);
  const uint32_t all = bits(at_least(one, one));
  uint32_t within = all;  // a mask that the next comparison narrows would be waited for
  for (int64_t j = 0; j < layer.padded; j += Vec::lanes) within &= bits(at_least(one, load(drives + j)));
  return within != all;
}

inline bool any_beyond(const NetworkView& net, const CodedSample& s) {
  bool any = false;
  for (int64_t l = 0; l + 1 < net.n_layers; ++l) any = any || s.beyond[l];
  return any;
}

// Recorded: spikes, counts or potentials are asked for.
template <bool Signed, bool Recorded>
void digits_layer_step(const NetworkView& net, const Request& request, int64_t l, int64_t t, CodedSample& s) {
  const LayerView& layer = net.layers[l];
  const CodeLayerView& tables = net.code->layers[l];
  float* const drives = s.state + tables.offset;
  float* const sents = s.sent + tables.offset;
  if (l > 0 && s.n_ids > 0) s.beyond[l] = is_beyond(layer, drives);  // or no drive has changed
  const CodedRecord record = record_of(net, request, l, t, s.row);
  if (!tables.active[t] && !record.spikes && !record.potentials) {
    s.n_ids = 0;
    return;
  }
  const Vec zero = broadcast(0.0f), one = broadcast(1.0f);
  const int64_t padded = layer.padded, n = layer.n_out;
  const float *const values = tables.values + t * padded, *const thresholds = tables.thresholds + t * padded,
                     *const guards = Signed ? nullptr : tables.guards + t * padded;
  float* const next = s.next;
  for (int64_t j = 0; j < padded; j += Vec::lanes) {
    const Vec drive = load(drives + j), value = load(values + j);
    Vec sent = load(sents + j), wanted = drive;
    if constexpr (!Signed) wanted = drive - load(guards + j);
    Mask fired;
    const Vec digit = digit_step<Signed>(clip(wanted, zero, one), sent, value, load(thresholds + j), one, fired);
    store(sents + j, sent);
    store(next + j, digit * value);
    if constexpr (!Recorded) continue;
    if (record.spikes) write_lanes(record.spikes, j, n, &digit, 1);
    if (record.counts) {
      const Vec spikes = keep_where(fired, one);
      add_lanes(record.counts, j, n, &spikes, 1);
    }
    if (record.potentials) {
      const Vec left = clip(drive, zero, one) - sent;
      write_lanes(record.potentials, j, n, &left, 1);
    }
  }
  send(layer, s);
}

// What arrives is in s.running already.
inline void digits_output_step(const NetworkView& net, const Request& request, int64_t t, CodedSample& s) {
  const int64_t l = net.n_layers - 1, n = net.layers[l].n_out;
  const CodedRecord record = record_of(net, request, l, t, s.row);
  if (record.potentials) __builtin_memcpy(record.potentials, s.running, static_cast<size_t>(n) * sizeof(float));
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
