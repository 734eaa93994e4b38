// SPDX-License-Identifier: Apache-2.0
// Code "rate", a sample per lane. Where samples may stop, a lane whose sample has stopped takes the next one.
#pragma once

#include "cpu/copies.h"
#include "cpu/lanes.h"

namespace snnfast {
namespace {

// One step of all copies of a neuron under the current h, membranes in memory. What they send becomes the row `sends`;
// `counts`, if not null, counts spikes of either sign.
template <bool Signed, bool Even>
SNNFAST_INLINE void lane_copies(const CopiesOf& copies, float* mem, float* net, const float* currents, float* sends,
                                float* counts) {
  Pack sent;
  for (int v = 0; v < kLaneVectors; ++v) {
    const int64_t at = v * Vec::lanes;
    Vec membrane = load(mem + at), before = Signed ? load(net + at) : broadcast(0.0f);
    sent.v[v] = copies.step<Signed, Even>(membrane, before, load(currents + at));
    store(mem + at, membrane);
    if constexpr (Signed) store(net + at, before);
  }
  store_pack(sends, sent);
  for (int v = 0; Signed && v < kLaneVectors; ++v) sent.v[v] = magnitude(sent.v[v]);
  if (counts) add_to_row(counts, sent);
}

SNNFAST_INLINE bool any_above_zero(const Pack& x) {
  uint32_t any = 0;
  for (int v = 0; v < kLaneVectors; ++v) any |= bits(above(x.v[v], broadcast(0.0f)));
  return any != 0;
}

// N neurons, all copies, over a tile of steps, membranes in registers. Their rows are `at` of the first one. Currents
// are rows of every step, `row` apart, or one for all steps (Constant). What they send becomes a row for every step,
// and `counts`, if not null, counts spikes of either sign. Which neurons sent any, as bits.
template <bool Signed, bool Even, bool Constant, int N>
SNNFAST_INLINE uint32_t lane_copies_over(const CopiesOf& copies, const int64_t (&at)[N], float* mem, float* net,
                                         const float* currents, float* sends, int64_t row, int64_t steps,
                                         float* counts) {
  Pack membrane[N], before[N], h[N], counted[N];
#pragma GCC unroll 4
  for (int i = 0; i < N; ++i) {
    membrane[i] = load_pack(mem + at[i]);
    before[i] = counted[i] = Pack{};
    if constexpr (Signed) before[i] = load_pack(net + at[i]);
    if constexpr (Constant) h[i] = load_pack(currents + at[i]);
  }
  for (int64_t t = 0; t < steps; ++t) {
#pragma GCC unroll 4
    for (int i = 0; i < N; ++i) {
      const int64_t here = t * row + at[i];
      if constexpr (!Constant) h[i] = load_pack(currents + here);
#pragma GCC unroll 2
      for (int v = 0; v < kLaneVectors; ++v) {
        const Vec sent = copies.step<Signed, Even>(membrane[i].v[v], before[i].v[v], h[i].v[v]);
        store(sends + here + v * Vec::lanes, sent);
        counted[i].v[v] = counted[i].v[v] + (Signed ? magnitude(sent) : sent);
      }
    }
  }
  uint32_t any = 0;
#pragma GCC unroll 4
  for (int i = 0; i < N; ++i) {
    store_pack(mem + at[i], membrane[i]);
    if constexpr (Signed) store_pack(net + at[i], before[i]);
    if (counts) add_to_row(counts + at[i], counted[i]);
    any |= static_cast<uint32_t>(any_above_zero(counted[i])) << i;
  }
  return any;
}

// A layer over a tile of steps; writes the neurons of which any lane sent a spike, and returns how many. Of the first
// layer (Constant) neurons that are `silent` stay out, and become so when no lane's current will make them spike any
// more.
template <bool Signed, bool Even, bool Constant>
__attribute__((noinline)) int64_t lane_layer_over(const CopiesOf& copies, int64_t n_out, float* mem, float* net,
                                                  const float* currents, float* sends, int64_t row, int64_t steps,
                                                  float* counts, uint32_t* ids, bool* silent) {
  // Whose membranes fit into registers. Other levels are rare, and their code would be long.
  constexpr int N = !Even ? 1 : Vec::lanes == 16 ? 4 : 2;
  int64_t n_ids = 0, n_next = 0, next[N];
  const auto run = [&](auto neurons) SNNFAST_ALWAYS {
    constexpr int n = decltype(neurons)::value;
    int64_t at[n];
    for (int i = 0; i < n; ++i) at[i] = next[i] * kPack;
    const uint32_t any =
        lane_copies_over<Signed, Even, Constant, n>(copies, at, mem, net, currents, sends, row, steps, counts);
    for (int i = 0; i < n; ++i) {
      if (any >> i & 1u) {
        ids[n_ids++] = static_cast<uint32_t>(next[i]);
      } else if constexpr (Constant && !Signed) {
        // Without a current the potential never rises. What was sent before may still be taken back.
        silent[next[i]] = !any_above_zero(load_pack(currents + at[i]));
      }
    }
  };
  for (int64_t j = 0; j < n_out; ++j) {
    if (Constant && silent[j]) continue;
    next[n_next++] = j;
    if (n_next < N) continue;
    run(VectorCount<N>{});
    n_next = 0;
  }
  for (int64_t i = 0; i < n_next; ++i) {
    next[0] = next[i];
    run(VectorCount<1>{});
  }
  return n_ids;
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
  const CodeView& code = *net.code;
  const CopiesOf copies(code);
  const LaneRows& rows = lanes.rows;
  const int64_t row = rows.widest * kPack;
  float *takes = lanes.first, *sends = lanes.second;
  int64_t count_row = rows.counts;
  int64_t n_ids = 0;  // inputs of the next layer: over a tile, those of which any lane sent a spike
  const auto currents = code.whole_products ? quickest_lane_currents<true>(net) : quickest_lane_currents<false>(net);
  for (int64_t l = 0; l + 1 < net.n_layers; ++l) {
    const LayerView& layer = net.layers[l];
    float* const mem = lanes.row(pack, rows.state + code.layers[l].offset);
    float* const before = lanes.row(pack, rows.sent + code.layers[l].offset);
    float* const count = counts ? lanes.row(pack, count_row) : nullptr;
    if constexpr (Single) {
      if (l > 0) currents(layer, takes, lanes.ids, layer.n_in, lanes.drives);
      const float* const h = l > 0 ? lanes.drives : lanes.row(pack, rows.constant);
      copies.with_levels([&](auto even) {
        for (int64_t at = 0; at < layer.n_out * kPack; at += kPack) {
          lane_copies<Signed, decltype(even)::value>(copies, mem + at, before + at, h + at, sends + at,
                                                     count ? count + at : nullptr);
        }
      });
    } else if (l == 0) {
      const float* const h = lanes.row(pack, rows.constant);
      const auto over = copies.even() ? lane_layer_over<Signed, true, true> : lane_layer_over<Signed, false, true>;
      n_ids = over(copies, layer.n_out, mem, before, h, sends, row, steps, count, lanes.ids, silent);
    } else {
      for (int64_t t = 0; t < steps; ++t) currents(layer, takes + t * row, lanes.ids, n_ids, lanes.drives + t * row);
      const auto over = copies.even() ? lane_layer_over<Signed, true, false> : lane_layer_over<Signed, false, false>;
      n_ids = over(copies, layer.n_out, mem, before, lanes.drives, sends, row, steps, count, lanes.ids, nullptr);
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

// The first `early` steps of `count` samples: those that are not sure by then, if that is not all, are listed in
// `lanes.late`, without `first`; how many, or -1 if interrupted.
template <bool Signed>
int64_t run_rate_early(const NetworkView& net, const Request& request, int64_t first, int64_t count, int64_t early,
                       const Lanes& lanes, const Interrupt& interrupt) {
  const CodeView& code = *net.code;
  Leaving leaving{request, first};
  bool silent[kRateLanesWidest];  // is not looked at in single steps
  all_inputs(lanes.rows.widest, lanes.ids);
  for (int64_t begin = 0; begin < count; begin += kPack) {
    if (interrupt.poll(interrupt.context)) return -1;
    const int64_t n = count - begin < kPack ? count - begin : kPack;
    for (int64_t i = 0; i < n; ++i) leaving.samples[i] = first + begin + i;
    for (int64_t& t : leaving.steps) t = 0;
    leaving.busy = first_lanes(n);
    start_pack(net, request, leaving.samples, n, lanes, lanes.packs);
    for (int64_t t = 0; t < early && leaving.busy; ++t) {
      if (code.step_weights) fill_row(leaving.weights, code.step_weights[t]);
      fill_row(leaving.divisors, code.divisors[t]);
      fill_row(leaving.bounds, code.bounds[t]);
      leaving.ends[0] = t + 1 == early ? ~uint64_t{0} : 0;
      lanes_rate_tile<Signed, true>(net, lanes, lanes.packs, code.step_weights ? leaving.weights : nullptr, 1, false,
                                    silent, &leaving);
      for (int64_t& done : leaving.steps) ++done;
    }
  }
  return leaving.late;
}

// Runs the samples numbered `begin` + which[0] .. which[count - 1], or, without a list, the first `count`; each until
// it may stop. A lane whose sample has stopped takes the next one, after a tile of so many steps (kLanesTile or 1).
// False if interrupted.
template <bool Signed>
bool run_rate_leaving(const NetworkView& net, const Request& request, int64_t begin, const int32_t* which,
                      int64_t count, int64_t tile, const Lanes& lanes, const Interrupt& interrupt) {
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
    if (interrupt.poll(interrupt.context)) return false;
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
    for (uint64_t& ends : leaving.ends) ends = 0;
    for (int64_t i = 0; i < kPack; ++i) {
      const int64_t now = leaving.steps[i];
      if (now < T && T <= now + tile) leaving.ends[T - 1 - now] |= uint64_t{1} << i;
      for (int64_t s = 0; s < tile; ++s) {
        const int64_t t = now + s < T ? now + s : T - 1;  // a lane may run further than its sample
        if (code.step_weights) leaving.weights[s * kPack + i] = code.step_weights[t];
        leaving.divisors[s * kPack + i] = code.divisors[t];
        leaving.bounds[s * kPack + i] = code.bounds[t];
      }
    }
    auto* const run = tile == 1 ? lanes_rate_tile<Signed, true> : lanes_rate_tile<Signed, false>;
    run(net, lanes, pack, code.step_weights ? leaving.weights : nullptr, tile, request.spike_counts != nullptr, silent,
        &leaving);
    for (int64_t& t : leaving.steps) t = t < T ? t + tile : T;
  }
  return true;
}

// Most samples are sure after a step or two. Those that are not begin again, among themselves, where each layer runs
// several steps before the next one, with its membranes in registers.
constexpr int64_t kEarlySteps = 2;

template <bool Signed>
bool run_rate_lanes(const NetworkView& net, const Request& request, int64_t first, int64_t count, const Lanes& lanes,
                    const Interrupt& interrupt) {
  if (net.code->exit == static_cast<int>(ExitKind::none)) {
    return run_rate_together<Signed>(net, request, first, count, lanes, interrupt);
  }
  // Spikes are counted by the tile, so where they are counted, all samples run step by step.
  if (request.spike_counts) {
    return run_rate_leaving<Signed>(net, request, first, nullptr, count, 1, lanes, interrupt);
  }
  const int64_t early = net.timesteps < kEarlySteps ? net.timesteps : kEarlySteps;
  const int64_t late = run_rate_early<Signed>(net, request, first, count, early, lanes, interrupt);
  if (late <= 0) return late == 0;
  return run_rate_leaving<Signed>(net, request, first, lanes.late, late, kLanesTile, lanes, interrupt);
}

}  // namespace
}  // namespace snnfast
