// SPDX-License-Identifier: Apache-2.0
// Code "rate", a sample per lane. Where samples may stop, a lane whose sample has stopped takes the next one.
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

// Lanes of a pack that may stop after a step.
inline uint64_t lanes_sure(const Lanes& lanes, float* pack, int64_t n_out, const float* bounds) {
  uint64_t sure = 0;
  for (int v = 0; v < kLaneVectors; ++v) {
    const int64_t at = v * Vec::lanes;
    const LaneBest best = lane_best(lanes.row(pack, lanes.rows.running) + at, n_out);
    const uint64_t far =
        bits(above(best.first - best.second, load(bounds + at))) & bits(above(best.ordered, broadcast(0.0f)));
    sure |= far << at;
  }
  return sure;
}

// The lanes of a pack whose samples stop by themselves, in a tile of steps.
struct Leaving {
  const Request& request;
  int64_t begin;                                   // the number of the first sample
  int64_t samples[kPack] = {}, steps[kPack] = {};  // steps: before the tile
  uint64_t busy = 0;                               // lanes that have a sample
  int64_t late = 0;                                // samples in lanes.late, without `begin`
  // For every step of the tile; ends: lanes that have run all steps that they may.
  alignas(64) float weights[kLanesTile * kPack] = {}, divisors[kLanesTile * kPack] = {},
                                         bounds[kLanesTile * kPack] = {};
  uint64_t ends[kLanesTile] = {};
};

// After step s of a tile: lanes whose samples are sure, or have run all steps that they may, have none any more.
__attribute__((noinline)) void lanes_leave(const NetworkView& net, const Lanes& lanes, float* pack, Leaving& leaving,
                                           int64_t s) {
  lanes_decode(net, lanes, pack, leaving.divisors + s * kPack);
  const int64_t n_out = net.layers[net.n_layers - 1].n_out;
  const uint64_t sure = lanes_sure(lanes, pack, n_out, leaving.bounds + s * kPack);
  const uint64_t leave = (sure | leaving.ends[s]) & leaving.busy;
  for (uint64_t left = leave; left; left &= left - 1) {
    const int64_t i = __builtin_ctzll(left), t = leaving.steps[i] + s + 1;
    if (t == net.timesteps || sure >> i & 1u) {
      finish_lane(net, leaving.request, leaving.samples[i], lanes, pack, i, t, false);
    } else {
      lanes.late[leaving.late++] = static_cast<int32_t>(leaving.samples[i] - leaving.begin);
    }
  }
  leaving.busy &= ~leave;
}

// A tile of steps of a pack, layer after layer, in which all neurons of the first layer take part but those that are
// `silent`, which no lane's current will make spike any more; or, Single, one step of all neurons. `leaving`: null
// where all samples run all steps. `weights`: of every step, per lane, or null: of its current, or, where samples may
// stop, of its potential.
template <bool Signed, bool Single>
void lanes_rate_tile(const NetworkView& net, const Lanes& lanes, float* pack, const float* weights, int64_t steps,
                     bool counts, bool* silent, Leaving* leaving) {
  constexpr int kCopies = Signed ? 2 : 4;  // whose membranes fit into registers
  const CodeView& code = *net.code;
  const NeuronConstants<Vec> constants = vector_constants(net);
  const LaneRows& rows = lanes.rows;
  const int64_t row = rows.widest * kPack;
  float *takes = lanes.first, *sends = lanes.second;
  int64_t count_row = rows.counts;
  int64_t n_ids = 0;  // inputs of the next layer: over a tile, those of which any lane sent a spike
  const auto currents = code.whole_products ? lane_currents<true> : lane_currents<false>;
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
      currents(layer, takes, lanes.ids, layer.n_in, lanes.drives);
      for (int64_t j = 0; j < layer.n_out; ++j) fire(j, load_pack(lanes.drives + j * kPack));
    } else {
      for (int64_t t = 0; t < steps; ++t) currents(layer, takes + t * row, lanes.ids, n_ids, lanes.drives + t * row);
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
    currents(last, takes + t * row, lanes.ids, Single ? last.n_in : n_ids, lanes.drives);
    for (int64_t j = 0; j < last.n_out; ++j) {
      float *output = lanes.row(pack, rows.output + j), *weighted = lanes.row(pack, rows.weighted + j);
      for (int v = 0; v < kLaneVectors; ++v) {
        const int64_t at = v * Vec::lanes;
        const Vec h = load(lanes.drives + j * kPack + at), total = load(output + at) + h;
        store(output + at, total);
        store(weighted + at, load(weighted + at) + (weight ? load(weight + at) * (leaving ? total : h) : total));
      }
    }
    if (leaving) lanes_leave(net, lanes, pack, *leaving, t);
  }
}

// Samples that all run all steps: those of a pack are always at the same one.
template <bool Signed>
bool run_rate_together(const NetworkView& net, const Request& request, int64_t first, int64_t count, const Lanes& lanes,
                       const Interrupt& interrupt) {
  const CodeView& code = *net.code;
  const int64_t T = net.timesteps;
  const float divisor = net.decoding == static_cast<int>(Decoding::mean_potential) ? static_cast<float>(T) : 1.0f;
  int64_t samples[kPack];
  alignas(64) float weights[kLanesTile * kPack], divisors[kPack];
  fill_row(divisors, divisor);
  float* const pack = lanes.packs;
  bool silent[kRateLanesWidest];
  for (int64_t begin = 0; begin < count; begin += kPack) {
    const int64_t busy = count - begin < kPack ? count - begin : kPack;
    for (int64_t i = 0; i < busy; ++i) samples[i] = first + begin + i;
    for (bool& one : silent) one = false;
    start_pack(net, request, samples, busy, lanes, pack);
    for (int64_t t = 0; t < T; t += kLanesTile) {
      if (interrupt.poll(interrupt.context)) return false;
      const int64_t steps = T - t < kLanesTile ? T - t : kLanesTile;
      for (int64_t s = 0; code.step_weights && s < steps; ++s) fill_row(weights + s * kPack, code.step_weights[t + s]);
      lanes_rate_tile<Signed, false>(net, lanes, pack, code.step_weights ? weights : nullptr, steps,
                                     request.spike_counts != nullptr, silent, nullptr);
    }
    lanes_decode(net, lanes, pack, divisors);
    for (int64_t i = 0; i < busy; ++i) finish_lane(net, request, samples[i], lanes, pack, i, T, false);
  }
  return true;
}

// Runs the samples numbered `begin` + which[0] .. which[count - 1], or, without a list, the first `count`; each until
// it may stop. A lane whose sample has stopped takes the next one, after a tile of so many steps (kLanesTile or 1).
// Those that were not sure after `most` steps, if that is not all, are listed in `lanes.late`, without `begin`; how
// many, or -1 if interrupted.
template <bool Signed>
int64_t run_rate_leaving(const NetworkView& net, const Request& request, int64_t begin, const int32_t* which,
                         int64_t count, int64_t most, int64_t tile, const Lanes& lanes, const Interrupt& interrupt) {
  const CodeView& code = *net.code;
  const int64_t T = net.timesteps;
  Leaving leaving{request, begin};
  float* const pack = lanes.packs;
  bool silent[kRateLanesWidest] = {};
  // Lanes without a sample run as well, from numbers that are none too strange.
  __builtin_memset(pack, 0, static_cast<size_t>(lanes.rows.total * kPack) * sizeof(float));
  if (lanes.turned) {
    __builtin_memset(lanes.turned, 0, static_cast<size_t>(net.layers[0].n_in * kPack) * sizeof(float));
  }
  all_inputs(lanes.rows.widest, lanes.ids);
  for (int64_t next = 0; leaving.busy || next < count;) {
    if (interrupt.poll(interrupt.context)) return -1;
    uint64_t fresh = 0;
    for (int64_t i = 0; i < kPack && next < count; ++i) {
      if (leaving.busy >> i & 1u) continue;
      fresh |= uint64_t{1} << i;
      leaving.samples[i] = begin + (which ? which[next] : next);
      leaving.steps[i] = 0;
      ++next;
    }
    if (fresh) {
      start_lanes(net, request, leaving.samples, fresh, lanes, pack);
      for (bool& one : silent) one = false;
      leaving.busy |= fresh;
    }
    for (int64_t s = 0; s < tile; ++s) {
      leaving.ends[s] = 0;
      for (int64_t i = 0; i < kPack; ++i) {
        const int64_t now = leaving.steps[i] + s, t = now < T ? now : T - 1;  // a lane may run further than its sample
        if (code.step_weights) leaving.weights[s * kPack + i] = code.step_weights[t];
        leaving.divisors[s * kPack + i] = code.divisors[t];
        leaving.bounds[s * kPack + i] = code.bounds[t];
        leaving.ends[s] |= static_cast<uint64_t>(t + 1 == most) << i;
      }
    }
    auto* const run = tile == 1 ? lanes_rate_tile<Signed, true> : lanes_rate_tile<Signed, false>;
    run(net, lanes, pack, code.step_weights ? leaving.weights : nullptr, tile, request.spike_counts != nullptr, silent,
        &leaving);
    for (int64_t& t : leaving.steps) t = t < T ? t + tile : T;
  }
  return leaving.late;
}

// Most samples are sure after a few steps, and a lane must not wait for others then. Those that are not begin again,
// among themselves, where each layer runs several steps before the next one, with its membranes in registers.
constexpr int64_t kEarlySteps = 3;

template <bool Signed>
bool run_rate_lanes(const NetworkView& net, const Request& request, int64_t first, int64_t count, const Lanes& lanes,
                    const Interrupt& interrupt) {
  if (net.code->exit == static_cast<int>(ExitKind::none)) {
    return run_rate_together<Signed>(net, request, first, count, lanes, interrupt);
  }
  // Spikes are counted by the tile, so where they are counted, all samples run step by step.
  const int64_t T = net.timesteps, early = request.spike_counts || T < kEarlySteps ? T : kEarlySteps;
  const int64_t late = run_rate_leaving<Signed>(net, request, first, nullptr, count, early, 1, lanes, interrupt);
  if (late <= 0) return late == 0;
  return run_rate_leaving<Signed>(net, request, first, lanes.late, late, T, kLanesTile, lanes, interrupt) >= 0;
}

}  // namespace
}  // namespace snnfast
