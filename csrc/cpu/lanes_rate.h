// SPDX-License-Identifier: Apache-2.0
// Code "rate", a sample per lane. A lane whose sample stops takes the next one, so that none idles.
#pragma once

#include "cpu/lanes.h"

namespace snnfast {
namespace {

// One step of all copies of a neuron under the current h. Returns their spikes, added up; `spikes` counts either sign.
template <bool Signed>
SNNFAST_INLINE Pack lane_copies(const CodeView& code, float* mem, float* net, int64_t stride, const Pack& h,
                                const NeuronConstants<Vec>& constants, Pack& spikes) {
  using Rule = NeuronRule<false, Reset::subtraction, false, false>;
  const Vec zero = broadcast(0.0f), one = broadcast(1.0f);
  Pack sum;
  for (int v = 0; v < kLaneVectors; ++v) sum.v[v] = spikes.v[v] = zero;
  for (int64_t k = 0; k < code.copies; ++k) {
    for (int v = 0; v < kLaneVectors; ++v) {
      float* m = mem + k * stride + v * Vec::lanes;
      Vec membrane = load(m), none = zero, spike;
      if constexpr (Signed) {
        float* n = net + k * stride + v * Vec::lanes;
        Vec before = load(n);
        spike = signed_step(membrane, before, h.v[v], constants, zero, one);
        store(n, before);
        spikes.v[v] = spikes.v[v] + spike * spike;
      } else {
        spike = keep_where(Rule::step(membrane, none, h.v[v], constants), one);
      }
      store(m, membrane);
      sum.v[v] = sum.v[v] + spike;
    }
  }
  if constexpr (!Signed) spikes = sum;
  return sum;
}

// One step of a pack through all layers. `weights`: of the step, per lane, or null.
template <bool Signed>
void lanes_rate_step(const NetworkView& net, const Lanes& lanes, float* pack, const float* weights, bool counts) {
  const CodeView& code = *net.code;
  const LaneRows& rows = lanes.rows;
  const NeuronConstants<Vec> constants = vector_constants(net);
  float *sends = lanes.first, *takes = lanes.second;
  int64_t count_row = rows.counts;
  for (int64_t l = 0; l + 1 < net.n_layers; ++l) {
    const LayerView& layer = net.layers[l];
    const int64_t state = code.layers[l].offset, stride = layer.padded * kPack;
    const auto fire = [&](int64_t j, const Pack& h) {
      Pack spikes;
      const Pack sum = lane_copies<Signed>(code, lanes.row(pack, rows.state + state + j),
                                           lanes.row(pack, rows.sent + state + j), stride, h, constants, spikes);
      store_pack(sends + j * kPack, sum);
      if (counts) add_to_row(lanes.row(pack, count_row + j), spikes);
    };
    if (l == 0) {
      for (int64_t j = 0; j < layer.n_out; ++j) fire(j, load_pack(lanes.row(pack, rows.constant + j)));
    } else {
      for_lane_currents(layer, takes, lanes.ids, layer.n_in, [&](int64_t j, Pack h) {
        const Vec bias = broadcast(layer.bias[j]);
        for (int v = 0; v < kLaneVectors; ++v) h.v[v] = h.v[v] + bias;
        fire(j, h);
      });
    }
    count_row += layer.n_out;
    float* const sent = sends;
    sends = takes;
    takes = sent;
  }
  const LayerView& last = net.layers[net.n_layers - 1];
  for_lane_currents(last, takes, lanes.ids, last.n_in, [&](int64_t j, Pack h) {
    const Vec bias = broadcast(last.bias[j]);
    float *output = lanes.row(pack, rows.output + j), *weighted = lanes.row(pack, rows.weighted + j);
    for (int v = 0; v < kLaneVectors; ++v) {
      const int64_t at = v * Vec::lanes;
      h.v[v] = h.v[v] + bias;
      const Vec total = load(output + at) + h.v[v];
      store(output + at, total);
      store(weighted + at, load(weighted + at) + (weights ? load(weights + at) * h.v[v] : total));
    }
  });
}

// What the lanes answer so far, each divided by its own divisor.
inline void lanes_decode(const NetworkView& net, const Lanes& lanes, float* pack, const float* divisors) {
  const LaneRows& rows = lanes.rows;
  const bool final_potential = net.decoding == static_cast<int>(Decoding::potential);
  for (int64_t j = 0; j < net.layers[net.n_layers - 1].n_out; ++j) {
    const float* decoded = lanes.row(pack, (final_potential ? rows.output : rows.weighted) + j);
    float* running = lanes.row(pack, rows.running + j);
    for (int64_t i = 0; i < kPack; ++i) running[i] = decoded[i] / divisors[i];
  }
}

template <bool Signed>
bool run_rate_lanes(const NetworkView& net, const Request& request, int64_t first, int64_t count, const Lanes& lanes,
                    const Interrupt& interrupt) {
  const CodeView& code = *net.code;
  const bool leaves = code.exit != static_cast<int>(ExitKind::none);
  const int64_t n_out = net.layers[net.n_layers - 1].n_out, T = net.timesteps;
  const float whole_divisor = net.decoding == static_cast<int>(Decoding::mean_potential) ? static_cast<float>(T) : 1.0f;
  int64_t samples[kPack], steps[kPack], next = 0, busy = 0;
  alignas(64) float weights[kPack] = {}, divisors[kPack], bounds[kPack];
  for (int64_t i = 0; i < kPack; ++i) divisors[i] = 1.0f, bounds[i] = 0.0f, samples[i] = -1, steps[i] = 0;
  float* const pack = lanes.packs;
  // All lanes at once, those without a sample included.
  const auto start_all = [&] {
    for (; busy < kPack && next < count; ++busy) samples[busy] = first + next++;
    for (int64_t& t : steps) t = 0;
    start_pack(net, request, samples, busy, lanes, pack);
  };
  all_inputs(lanes.rows.widest, lanes.ids);
  start_all();
  while (busy > 0) {
    if (interrupt.poll(interrupt.context)) return false;
    bool ends = false;
    for (int64_t i = 0; i < kPack; ++i) {
      const int64_t t = steps[i] < T ? steps[i] : T - 1;  // of lanes without a sample
      if (code.step_weights) weights[i] = code.step_weights[t];
      divisors[i] = code.divisors ? code.divisors[t] : whole_divisor;
      if (leaves) bounds[i] = code.bounds[t];
      ends = ends || (samples[i] >= 0 && t + 1 == T);
    }
    lanes_rate_step<Signed>(net, lanes, pack, code.step_weights ? weights : nullptr, request.spike_counts != nullptr);
    for (int64_t i = 0; i < kPack; ++i) ++steps[i];
    if (!ends && !leaves) continue;
    lanes_decode(net, lanes, pack, divisors);
    uint64_t stops = 0;
    for (int v = 0; leaves && v < kLaneVectors; ++v) {
      const int64_t at = v * Vec::lanes;
      const LaneBest best = lane_best(lanes.row(pack, lanes.rows.running) + at, n_out);
      const uint64_t far =
          bits(above(best.first - best.second, load(bounds + at))) & bits(above(best.ordered, broadcast(0.0f)));
      stops |= far << at;
    }
    for (int64_t i = 0; i < kPack; ++i) {
      if (samples[i] < 0 || (steps[i] < T && !(stops >> i & 1u))) continue;
      finish_lane(net, request, samples[i], lanes, pack, i, steps[i], false);
      samples[i] = -1;
      --busy;
      if (!leaves || next == count) continue;
      samples[i] = first + next++;
      steps[i] = 0;
      ++busy;
      start_lane(net, request, samples[i], lanes, pack, i);
    }
    if (busy == 0) start_all();
  }
  return true;
}

}  // namespace
}  // namespace snnfast
