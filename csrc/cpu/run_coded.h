// SPDX-License-Identifier: Apache-2.0
// A block of samples through a network with a code: a few side by side, step by step, each until it may stop.
#pragma once

#include "cpu/coded_digits.h"
#include "cpu/coded_exit.h"
#include "cpu/coded_rate.h"
#include "cpu/coded_sample.h"
#include "cpu/coded_turns.h"
#include "cpu/lanes_digits.h"
#include "cpu/lanes_rate.h"
#include "cpu/lanes_turns.h"

namespace snnfast {
namespace {

inline int64_t packs_together(const NetworkView& net) {
  if (net.code->kind == static_cast<int>(CodeKind::digits)) return digits_packs(net);
  return net.code->kind == static_cast<int>(CodeKind::radix) ? turns_packs(net) : 1;
}

// Whether a lane whose sample stops takes the next one, so that what is left of a batch makes no pack of its own.
inline bool refills_lanes(const NetworkView& net) {
  return net.code->kind == static_cast<int>(CodeKind::rate) && net.code->exit != static_cast<int>(ExitKind::none);
}

int64_t coded_scratch_bytes(const NetworkView& net) {
  Arena arena{nullptr};
  for (int64_t i = 0; i < kSideBySide; ++i) take_coded(arena, net);
  if (net.code->lanes) take_lanes(arena, net, packs_together(net));
  return arena.used;
}

inline void zero(float* to, int64_t n) { __builtin_memset(to, 0, static_cast<size_t>(n) * sizeof(float)); }

inline void start_coded(const NetworkView& net, const Request& request, int64_t row, const float* features,
                        CodedSample& s) {
  const CodeView& code = *net.code;
  const LayerView& last = net.layers[net.n_layers - 1];
  s.row = row;
  s.n_ids = 0;
  s.terms = code.largest ? first_terms(net, features) : 0.0f;
  const bool digits = code.kind == static_cast<int>(CodeKind::digits);
  for (int64_t l = 0; l + 1 < net.n_layers; ++l) {
    const LayerView& layer = net.layers[l];
    float* state = s.state + code.layers[l].offset;
    if (code.layers[l].starts) {
      __builtin_memcpy(state, code.layers[l].starts, static_cast<size_t>(layer.padded) * sizeof(float));
    } else if (digits) {
      __builtin_memcpy(state, l ? layer.bias : s.constant, static_cast<size_t>(layer.padded) * sizeof(float));
    }
    s.beyond[l] = digits && is_beyond(layer, state);
    if (request.spike_counts) zero(request.spike_counts[l] + row * layer.n_out, layer.n_out);
  }
  zero(s.sent, code.state);
  zero(s.output, last.padded);
  zero(s.weighted, last.padded);
  for (int64_t j = 0; j < last.padded; ++j) s.running[j] = last.bias[j] + 0.0f;  // of digits: -0 is +0 from now on
}

// Records of the steps that a sample no longer runs.
inline void clear_records(const NetworkView& net, const Request& request, int64_t l, int64_t from, int64_t row) {
  for (int64_t t = from; t < net.timesteps; ++t) {
    const CodedRecord record = record_of(net, request, l, t, row);
    if (record.spikes) zero(record.spikes, net.layers[l].n_out);
    if (record.potentials) zero(record.potentials, net.layers[l].n_out);
  }
}

// A sample has run its last step. `within`: steps of its last turn, or of all layers.
inline void finish_coded(const NetworkView& net, const Request& request, const CodedSample& s, int64_t steps,
                         int64_t within, bool certain) {
  const LayerView& last = net.layers[net.n_layers - 1];
  __builtin_memcpy(request.output + s.row * last.n_out, s.running, static_cast<size_t>(last.n_out) * sizeof(float));
  if (request.steps) request.steps[s.row] = static_cast<float>(steps);
  if (request.certified) request.certified[s.row] = certain ? 1.0f : 0.0f;
  if (request.saturated) request.saturated[s.row] = any_beyond(net, s) ? 1.0f : 0.0f;
  if (within == net.timesteps || (!request.spikes && !request.potentials)) return;
  const bool turns = steps != within;
  for (int64_t l = turns ? net.n_layers - 2 : 0; l < net.n_layers; ++l) {
    clear_records(net, request, l, within, s.row);
  }
}

// One step of a hidden layer, of the codes in which all layers take part.
using LayerStep = void (*)(const NetworkView&, const Request&, int64_t l, int64_t t, CodedSample&);

template <bool Recorded>
LayerStep layer_step(const NetworkView& net) {
  if (net.code->kind == static_cast<int>(CodeKind::digits)) {
    return is_guarded(net) ? digits_layer_step<false, Recorded> : digits_layer_step<true, Recorded>;
  }
  return net.code->signed_spikes ? rate_layer_step<true, Recorded> : rate_layer_step<false, Recorded>;
}

// Where what the layer before has sent goes: of digits, into drives and outputs at once.
inline float* arrival_row(const NetworkView& net, int64_t l, const CodedSample& s) {
  if (net.code->kind != static_cast<int>(CodeKind::digits)) return s.arriving;
  return l + 1 < net.n_layers ? s.state + net.code->layers[l].offset : s.running;
}

inline bool run_side_by_side(const NetworkView& net, const Request& request, CodedSample* samples, int64_t count,
                             const Interrupt& interrupt) {
  const CodeView& code = *net.code;
  const LayerView& last = net.layers[net.n_layers - 1];
  const bool digits = code.kind == static_cast<int>(CodeKind::digits);
  const bool recorded = request.spike_counts || request.spikes || request.potentials;
  const LayerStep step = recorded ? layer_step<true>(net) : layer_step<false>(net);
  // Samples share blocks of weights, or, where few neurons send anything, each goes on while what it needs is at hand.
  bool layer_by_layer = true;
  const auto arrives = code.whole_products ? arrive<true> : arrive<false>;
  for (int64_t t = 0; t < net.timesteps && count > 0; ++t) {
    if (interrupt.poll(interrupt.context)) return false;
    const int64_t group = layer_by_layer ? count : 1;
    int64_t sent = 0;
    for (int64_t first = 0; first < count; first += group) {
      for (int64_t l = 0; l < net.n_layers; ++l) {
        for (int64_t i = first; i < first + group; ++i) samples[i].to = arrival_row(net, l, samples[i]);
        if (l > 0) arrives(net.layers[l], digits, samples + first, group);
        for (int64_t i = first; i < first + group; ++i) {
          if (l + 1 < net.n_layers) {
            step(net, request, l, t, samples[i]);
            sent += samples[i].n_ids;
          } else {
            digits ? digits_output_step(net, request, t, samples[i]) : rate_output_step(net, request, t, samples[i]);
          }
        }
      }
    }
    layer_by_layer = sent >= kFewSent * count * (net.n_layers - 1);
    const bool end = t + 1 == net.timesteps;
    if (!end && code.exit == static_cast<int>(ExitKind::none)) continue;
    int64_t going = 0;
    for (int64_t i = 0; i < count; ++i) {
      CodedSample& s = samples[i];
      bool certain = false, stops = end;
      if (code.exit == static_cast<int>(ExitKind::calibrated)) {
        stops = stops || margin_suffices(code, s.running, last.n_out, t);
      } else if (code.exit == static_cast<int>(ExitKind::certified)) {
        certain = digits_are_certain_now(net, t, s);
        stops = stops || certain;
      }
      if (stops) {
        finish_coded(net, request, s, t + 1, t + 1, certain);
        continue;
      }
      const CodedSample stopped = samples[going];  // its buffers serve the next samples
      samples[going++] = s;
      if (going - 1 != i) s = stopped;
    }
    count = going;
  }
  return true;
}

inline bool run_lanes(const NetworkView& net, const Request& request, int64_t first, int64_t count, const Lanes& lanes,
                      const Interrupt& interrupt) {
  const CodeView& code = *net.code;
  if (code.kind == static_cast<int>(CodeKind::rate)) {
    return code.signed_spikes ? run_rate_lanes<true>(net, request, first, count, lanes, interrupt)
                              : run_rate_lanes<false>(net, request, first, count, lanes, interrupt);
  }
  if (code.kind == static_cast<int>(CodeKind::digits)) {
    return run_digits_lanes(net, request, first, count, lanes, interrupt);
  }
  return run_turns_lanes(net, request, first, count, lanes, interrupt);
}

bool run_coded(const NetworkView& net, const Request& request, int64_t first, int64_t count, char* memory,
               const Interrupt& interrupt) {
  Arena arena{memory};
  const CodeView& code = *net.code;
  CodedSample samples[kSideBySide];
  for (int64_t i = 0; i < kSideBySide && i < count; ++i) samples[i] = take_coded(arena, net);
  int64_t done = 0;
  if (!request.spikes && !request.potentials && code.lanes) {
    const int64_t rest = count % kPack;
    if (refills_lanes(net)) {
      done = count < code.fewest_lanes ? 0 : count;
    } else {
      done = rest < code.fewest_lanes ? count - rest : count;
    }
    const Lanes lanes = take_lanes(arena, net, packs_together(net));
    if (!run_lanes(net, request, first, done, lanes, interrupt)) return false;
  }
  for (int64_t begin = done; begin < count; begin += kSideBySide) {
    const int64_t n = count - begin < kSideBySide ? count - begin : kSideBySide;
    const float* inputs[kSideBySide];
    float* currents[kSideBySide];
    for (int64_t i = 0; i < n; ++i) {
      const float* x = request.observations + (first + begin + i) * net.n_in;
      if (samples[i].features) write_features(net, x, samples[i].features);
      inputs[i] = samples[i].features ? samples[i].features : x;
      currents[i] = samples[i].constant;
    }
    constant_currents(net.layers[0], inputs, currents, n, 0, net.layers[0].panels);
    for (int64_t i = 0; i < n; ++i) start_coded(net, request, first + begin + i, inputs[i], samples[i]);
    bool finished = true;
    if (code.kind == static_cast<int>(CodeKind::rate) || code.kind == static_cast<int>(CodeKind::digits)) {
      finished = run_side_by_side(net, request, samples, n, interrupt);
    } else {
      for (int64_t i = 0; i < n && finished; ++i) {
        bool certain = false;
        const int64_t steps = run_turns(net, request, samples[i], certain);
        const int64_t within = steps - (net.n_layers - 2) * net.timesteps;
        finish_coded(net, request, samples[i], steps, within, certain);
        finished = !interrupt.poll(interrupt.context);
      }
    }
    if (!finished) return false;
  }
  return true;
}

}  // namespace
}  // namespace snnfast
