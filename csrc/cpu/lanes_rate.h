// SPDX-License-Identifier: Apache-2.0
// Code "rate", a sample per lane. A lane whose sample stops takes the next one, so that none idles.
#pragma once

#include "cpu/lanes.h"

namespace snnfast {
namespace {

// One step of one vector of a neuron's copies: adds their spikes to the sums. `spikes` counts either sign.
template <bool Signed>
struct LaneSpikes {
  Vec net = broadcast(0.0f), either = broadcast(0.0f);
  Integers fired = no_count();

  SNNFAST_INLINE void step(int place, Vec& mem, Vec& before, Vec h, const NeuronConstants<Vec>& constants) {
    using Rule = NeuronRule<false, Reset::subtraction, false, false>;
    Vec zero = broadcast(0.0f);
    if constexpr (Signed) {
      const Vec spike = signed_step(mem, before, h, constants, zero, broadcast(1.0f));
      either = either + spike * spike;
      net = net + spike;
    } else {
      fired = count(fired, step_beside<Rule>(place, mem, zero, h, constants));
    }
  }

  SNNFAST_INLINE Vec sum() const { return Signed ? net : to_float(fired); }
  SNNFAST_INLINE Vec spikes() const { return Signed ? either : to_float(fired); }
};

// One step of all copies of a neuron under the current h, membranes in memory. Their spikes, added up, become the row
// `sums`; `counts`, if not null, counts them.
template <bool Signed>
SNNFAST_INLINE void lane_copies(const CodeView& code, const NeuronConstants<Vec>& constants, float* mem, float* net,
                                int64_t stride, const Pack& h, float* sums, float* counts) {
  using Rule = NeuronRule<false, Reset::subtraction, false, false>;
  const Vec zero = broadcast(0.0f), one = broadcast(1.0f);
  Pack sum, either;
  for (int v = 0; v < kLaneVectors; ++v) sum.v[v] = either.v[v] = zero;
  for (int64_t k = 0; k < code.copies; ++k) {
    for (int v = 0; v < kLaneVectors; ++v) {
      float *m = mem + k * stride + v * Vec::lanes, *n = net + k * stride + v * Vec::lanes;
      Vec membrane = load(m), none = zero, spike;
      if constexpr (Signed) {
        Vec before = load(n);
        spike = signed_step(membrane, before, h.v[v], constants, zero, one);
        store(n, before);
        either.v[v] = either.v[v] + spike * spike;
      } else {
        spike = keep_where(Rule::step(membrane, none, h.v[v], constants), one);
      }
      store(m, membrane);
      sum.v[v] = sum.v[v] + spike;
    }
  }
  store_pack(sums, sum);
  if (counts) add_to_row(counts, Signed ? either : sum);
}

SNNFAST_INLINE bool any_above_zero(const Pack& x) {
  uint32_t any = 0;
  for (int v = 0; v < kLaneVectors; ++v) any |= bits(above(x.v[v], broadcast(0.0f)));
  return any != 0;
}

// C copies of a neuron over a tile of steps, membranes in registers, under its current at every step (rows, `row`
// apart), or under `h` at all of them (Constant). Their spikes, added up, become a row of `sums` for every step, or are
// added to it. Whether there was a spike.
template <bool Signed, bool Constant, int C>
SNNFAST_INLINE bool lane_copies_over(const NeuronConstants<Vec>& constants, float* mem, float* net, int64_t stride,
                                     const Pack& h, const float* currents, float* sums, int64_t row, int64_t steps,
                                     bool add, float* counts) {
  Pack membrane[C], before[C], counted{};
#pragma GCC unroll 4
  for (int k = 0; k < C; ++k) {
    membrane[k] = load_pack(mem + k * stride);
    if constexpr (Signed) before[k] = load_pack(net + k * stride);
  }
  for (int64_t t = 0; t < steps; ++t) {
    for (int v = 0; v < kLaneVectors; ++v) {
      const int64_t at = t * row + v * Vec::lanes;
      const Vec current = Constant ? h.v[v] : load(currents + at);
      LaneSpikes<Signed> fired;
#pragma GCC unroll 4
      for (int k = 0; k < C; ++k) fired.step(k, membrane[k].v[v], before[k].v[v], current, constants);
      store(sums + at, add ? load(sums + at) + fired.sum() : fired.sum());
      counted.v[v] = counted.v[v] + fired.spikes();
    }
  }
#pragma GCC unroll 4
  for (int k = 0; k < C; ++k) {
    store_pack(mem + k * stride, membrane[k]);
    if constexpr (Signed) store_pack(net + k * stride, before[k]);
  }
  if (counts) add_to_row(counts, counted);
  return any_above_zero(counted);
}

// A tile of steps of a pack, layer after layer; Single: one step, after which a lane may stop. `weights`: of every
// step, per lane, or null: of its current, or where it may stop of its potential. `silent`: neurons of the first layer
// that no lane's current will make spike any more.
template <bool Signed, bool Single>
void lanes_rate_tile(const NetworkView& net, const Lanes& lanes, float* pack, const float* weights, int64_t steps,
                     bool counts, bool* silent) {
  constexpr int kCopies = Signed ? 2 : 4;  // whose membranes fit into registers
  const CodeView& code = *net.code;
  const NeuronConstants<Vec> constants = vector_constants(net);
  const LaneRows& rows = lanes.rows;
  const int64_t row = rows.widest * kPack;
  float *takes = lanes.first, *sends = lanes.second;
  int64_t count_row = rows.counts;
  int64_t n_ids = 0;  // inputs of the next layer: over a tile, those of which any lane sent a spike
  for (int64_t l = 0; l + 1 < net.n_layers; ++l) {
    const LayerView& layer = net.layers[l];
    const int64_t stride = layer.padded * kPack;
    float* const mem = lanes.row(pack, rows.state + code.layers[l].offset);
    float* const before = lanes.row(pack, rows.sent + code.layers[l].offset);
    const auto counted = [&](int64_t j) { return counts ? lanes.row(pack, count_row + j) : nullptr; };
    const auto fire = [&](int64_t j, const Pack& h) {
      const int64_t at = j * kPack;
      lane_copies<Signed>(code, constants, mem + at, before + at, stride, h, sends + at, counted(j));
    };
    const auto fire_over = [&](auto constant, int64_t j, const Pack& h) {
      const int64_t at = j * kPack;
      bool any = false;
      const auto run = [&](auto copies, int64_t k) {
        any |= lane_copies_over<Signed, decltype(constant)::value == 1, decltype(copies)::value>(
            constants, mem + k * stride + at, before + k * stride + at, stride, h, lanes.drives + at, sends + at, row,
            steps, k > 0, counted(j));
      };
      int64_t k = 0;
      for (; k + kCopies <= code.copies; k += kCopies) run(VectorCount<kCopies>{}, k);
      for (; k < code.copies; ++k) run(VectorCount<1>{}, k);
      if (any) lanes.ids[n_ids++] = static_cast<uint32_t>(j);
      return any;
    };
    if (l == 0) {
      for (int64_t j = 0; j < layer.n_out; ++j) {
        const Pack h = load_pack(lanes.row(pack, rows.constant + j));
        if constexpr (Single) {
          fire(j, h);
        } else if (!silent[j]) {
          // Without a current the potential never rises. What was sent before may still be taken back.
          silent[j] = !fire_over(VectorCount<1>{}, j, h) && !Signed && !any_above_zero(h);
        }
      }
    } else if constexpr (Single) {
      for_lane_currents(layer, takes, lanes.ids, layer.n_in,
                        [&](int64_t j, const Pack& h) { fire(j, with_bias(layer, j, h)); });
    } else {
      for (int64_t t = 0; t < steps; ++t) {
        for_lane_currents(layer, takes + t * row, lanes.ids, n_ids, [&](int64_t j, const Pack& h) {
          store_pack(lanes.drives + t * row + j * kPack, with_bias(layer, j, h));
        });
      }
      n_ids = 0;
      for (int64_t j = 0; j < layer.n_out; ++j) fire_over(VectorCount<0>{}, j, Pack{});
    }
    count_row += layer.n_out;
    float* const sent = sends;
    sends = takes;
    takes = sent;
  }
  const LayerView& last = net.layers[net.n_layers - 1];
  for (int64_t t = 0; t < steps; ++t) {
    const float* const weight = weights ? weights + t * kPack : nullptr;
    for_lane_currents(last, takes + t * row, lanes.ids, Single ? last.n_in : n_ids, [&](int64_t j, Pack h) {
      const Vec bias = broadcast(last.bias[j]);
      float *output = lanes.row(pack, rows.output + j), *weighted = lanes.row(pack, rows.weighted + j);
      for (int v = 0; v < kLaneVectors; ++v) {
        const int64_t at = v * Vec::lanes;
        h.v[v] = h.v[v] + bias;
        const Vec total = load(output + at) + h.v[v];
        store(output + at, total);
        store(weighted + at, load(weighted + at) + (weight ? load(weight + at) * (Single ? total : h.v[v]) : total));
      }
    });
  }
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
  alignas(64) float weights[kLanesTile * kPack] = {}, divisors[kPack], bounds[kPack];
  for (int64_t i = 0; i < kPack; ++i) divisors[i] = 1.0f, bounds[i] = 0.0f, samples[i] = -1, steps[i] = 0;
  float* const pack = lanes.packs;
  bool silent[kLanesWidest];
  // All lanes at once, those without a sample included.
  const auto start_all = [&] {
    for (; busy < kPack && next < count; ++busy) samples[busy] = first + next++;
    for (int64_t& t : steps) t = 0;
    for (bool& one : silent) one = false;
    start_pack(net, request, samples, busy, lanes, pack);
  };
  all_inputs(lanes.rows.widest, lanes.ids);
  start_all();
  while (busy > 0) {
    if (interrupt.poll(interrupt.context)) return false;
    // Lanes that may stop are looked at after every step; the others are all at the same one.
    const int64_t tile = leaves ? 1 : T - steps[0] < kLanesTile ? T - steps[0] : kLanesTile;
    bool ends = false;
    for (int64_t i = 0; i < kPack; ++i) {
      for (int64_t s = 0; code.step_weights && s < tile; ++s) {
        const int64_t t = steps[i] + s;
        weights[s * kPack + i] = code.step_weights[t < T ? t : T - 1];  // without a sample, a lane is past the last
      }
      steps[i] += tile;
      const int64_t t = steps[i] <= T ? steps[i] - 1 : T - 1;
      divisors[i] = code.divisors ? code.divisors[t] : whole_divisor;
      if (leaves) bounds[i] = code.bounds[t];
      ends = ends || (samples[i] >= 0 && t + 1 == T);
    }
    const float* const used = code.step_weights ? weights : nullptr;
    const bool counts = request.spike_counts != nullptr;
    leaves ? lanes_rate_tile<Signed, true>(net, lanes, pack, used, 1, counts, silent)
           : lanes_rate_tile<Signed, false>(net, lanes, pack, used, tile, counts, silent);
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
