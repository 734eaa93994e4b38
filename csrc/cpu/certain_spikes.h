// SPDX-License-Identifier: Apache-2.0
// Exact spikes from sums that are not: of neurons whose currents come from prefix sums of weights rounded to integers
// (prefix_sums.h), which spikes are certain to be those of the canonical sums, and how the other neurons run again. Of
// products of matrices: certain_slices.h, by the same bound.
//
// Both ways to sum a current are within a bound of the true sum, so beside its membrane a neuron carries how far that
// may be from the canonical one. As long as it is further from the threshold than this in every step, the canonical
// neuron has fired in the same steps. Where it has not been, which goes for few neurons, the neuron is in doubt: its
// currents are summed anew, in canonical order.
//
// The bound, with u = 2^-24 and n inputs that spike, whose weights sum to S. If w is the neuron's K-th largest weight
// (magnitudes are meant) and the K largest exceed it by e together, k weights sum to at most e + k w, whatever k is.
// Every addition of the canonical sum rounds by at most u times its result: after k of them at most e + k w and, as
// n - k are left, at most |S| + e + (n - k) w. The first half of them bounded in one way, the others in the other, that
// makes u (w n^2 / 4 + e n + |S| (n + 1) / 2). The n integers are off by half a unit each. Turning their sum into a
// float and adding the bias, b, rounds by at most 3 u (|h| + |b|) on both sides, if h is the current, and |S| is at
// most |h| + |b|. Adding h to the membrane and taking the threshold off it: at most 4 u times what the membrane has
// reached. Terms of second order, and the rounding of the bound itself, are within one per cent, as there are at most
// 2^15 inputs and 128 steps. Nothing leaves the range of floats: layers where a membrane could are not run so. See
// Higham 2002, section 4.2, for such bounds.
#pragma once

#include "core/neuron.h"
#include "cpu/certain_again.h"
#include "cpu/event_currents.h"
#include "cpu/kernels.h"
#include "cpu/layer_scan.h"
#include "cpu/panels.h"
#include "cpu/prefix_sums.h"
#include "cpu/segments.h"
#include "cpu/simd.h"
#include "cpu/spike_ids.h"

namespace snnfast {
namespace {

// What a sample keeps for it in its tile of steps, the only one.
struct Certainty {
  float* quadratic;     // (tile): the bound of a step's current, in multiples of w,
  float* linear;        // (tile): of what goes with n,
  float* relative;      // (tile): and of the current and the bias
  PanelBits* doubtful;  // (panels, to whole words): neurons
  TurnedSpikes turned;  // with steps in lanes: the input spikes, in the inputs' own order
};

template <class Arena>
Certainty take_certainty(Arena& arena, const LayerView& layer, int64_t tile) {
  Certainty c;
  c.quadratic = arena.template take<float>(tile);
  c.linear = arena.template take<float>(tile);
  c.relative = arena.template take<float>(tile);
  c.doubtful = arena.template take<PanelBits>(bits_stride(layer.panels));
  c.turned = {};
  return c;
}

// The spikes of inputs that were sorted, turned and put into the inputs' own order; scratch: as much memory.
inline void turn_sorted(const PanelBits* bits, int64_t stride, int64_t inputs, int64_t steps, const uint16_t* order,
                        const TurnedSpikes& scratch, TurnedSpikes& turned) {
  turn_rows(bits, stride, inputs, steps, scratch.words);
  for (int64_t first = 0; first < steps; first += kWordSteps) {
    const int64_t at = first / kWordSteps * whole_words(inputs);
    for (int64_t i = 0; i < inputs; ++i) turned.words[at + order[i]] = scratch.words[at + i];
  }
  find_firing(inputs, steps, turned);
}

// What a block's samples share while the neurons in doubt of one of them run again; with steps in lanes, only `turned`.
struct DoubtScratch {
  float* current;      // (padded inputs): the first layer's, in the order of its neurons
  float* state;        // (padded inputs, at least kRow)
  PanelBits* spikes;   // (tile, bits_stride): the first layer's, in that order
  uint16_t* firing;    // (inputs): those that spike at all, ascending; and what may be written behind
  float* rows;         // (inputs and a row of zeros per segment, kRow): of those, the weights of neurons in doubt
  float* bias;         // (kRow)
  PanelBits* settled;  // (tile): spikes of neurons in doubt
  TurnedSpikes turned;
};

template <class Arena>
DoubtScratch take_doubt(Arena& arena, const LayerView& first, int64_t tile) {
  DoubtScratch s{};
  if (kHasStepLanes) {
    s.turned = take_turned(arena, first.n_out, tile);
    return s;
  }
  s.current = arena.template take<float>(first.padded);
  s.state = arena.template take<float>(first.padded < kRow ? kRow : first.padded);
  s.spikes = arena.template take<PanelBits>(tile * bits_stride(first.panels));
  s.firing = arena.template take<uint16_t>(first.n_out + kAtOnce);
  s.rows = arena.template take<float>(Segments(first.n_out, kMostRows).rows * kRow);
  s.bias = arena.template take<float>(kRow);
  s.settled = arena.template take<PanelBits>(tile);
  return s;
}

// What it costs to make spikes certain, in loads of a vector of weights, of which a row has so many. In doubt
// are some 3 % of the neurons at usual rates, 11 % where 40 % fire; 6 % is what is reckoned with. With steps in lanes
// each of them adds every input that fires, a vector of steps at a time. Elsewhere their weights are copied one by one,
// and the input spikes are listed once more. Beside that every step of every vector has a bound to be held against, and
// each step one to be made, for which the first layer's spikes are put into its own order (measured).
inline float doubts_cost(const SumsCost& cost, float vectors, int64_t steps) {
  constexpr float kDoubtful = 0.06f, kClocksPerSpike = 3.0f, kLoadsPerBound = 4.0f;
  constexpr float kLoadsPerStep = kHasStepLanes ? 60.0f : 370.0f;
  const float bounds = static_cast<float>(steps) * (kLoadsPerBound + kLoadsPerStep / vectors);
  if (kHasStepLanes) {
    constexpr float kClocksPerVector = static_cast<float>(kLaneNeurons + 1) / (2.0f * kLaneNeurons);
    const auto of_steps = static_cast<float>((steps + Vec::lanes - 1) / Vec::lanes);
    return bounds + kDoubtful * Vec::lanes * kClocksPerVector * cost.firing * of_steps;
  }
  return bounds + kDoubtful * (cost.spikes + Vec::lanes * cost.firing) + kClocksPerSpike * cost.spikes / vectors;
}

// The bound of every step, from its input spikes: rows of bits, with a stride.
inline void bound_steps(const PanelBits* bits, int64_t stride, int64_t n_in, int64_t steps, const Certainty& c) {
  constexpr float kUnit = 0x1p-24f * 1.01f;
  const int64_t words = (n_in + 63) / 64;
  const uint64_t last_bits = used_bits(n_in);
  for (int64_t t = 0; t < steps; ++t) {
    int count = __builtin_popcountll(row_word(bits + t * stride, words - 1) & last_bits);
    for (int64_t w = 0; w < words - 1; ++w) count += __builtin_popcountll(row_word(bits + t * stride, w));
    const auto n = static_cast<float>(count);
    c.quadratic[t] = kUnit * (0.25f * n * n);
    c.linear[t] = kUnit * n;
    c.relative[t] = kUnit * (0.5f * n + 3.5f);
  }
}

// scan_panels for such neurons. `usual`: their w; `excess`: e and half a unit over u.
template <int V>
void scan_vectors(const Scan& a, const NeuronConstants<EagerVec>& constants, const float* usual, const float* excess,
                  const float* bias, const Certainty& c, PanelBits* doubtful) {
  constexpr int L = Vec::lanes;
  const Vec zero = broadcast(0.0f), membrane = broadcast(4.0f * 0x1p-24f * 1.01f);
  EagerVec mem[V];
  Vec error[V], w[V], e[V], base[V];
  Mask certain[V];
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) {
    mem[v] = load(a.mem + v * L);
    error[v] = broadcast(0x1p-126f);  // what the bound itself loses below that
    w[v] = load(usual + v * L);
    e[v] = load(excess + v * L);
    base[v] = magnitude(load(bias + v * L));
    certain[v] = at_least(zero, zero);
  }
  for (int64_t t = 0; t < a.steps; ++t) {
    const float* const h = a.current + t * a.current_stride;
    char* const spiked = a.spike_bits + t * a.stride;
    const Vec quadratic = broadcast(c.quadratic[t]), linear = broadcast(c.linear[t]);
    const Vec relative = broadcast(c.relative[t]);
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      const Vec arriving = load(h + v * L), reached = mem[v] + arriving;
      EagerVec syn = zero;
      store_bits(spiked, v, CertainRule::step<EagerVec>(mem[v], syn, arriving, constants));
      const Vec sums = w[v] * quadratic + (e[v] * linear + (magnitude(arriving) + base[v]) * relative);
      error[v] = error[v] + (magnitude(reached) * membrane + sums);
      const Vec distance = magnitude(reached - constants.threshold);  // not a number: not certain
      certain[v] = both(certain[v], above(distance, error[v]));
    }
  }
  uint64_t sure = 0;
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) sure |= uint64_t{bits(certain[v])} << (v * L);
  *doubtful = static_cast<PanelBits>(~sure & used_bits(a.valid));
}

// The same of a whole panel of the second layer, whose membranes and spike bits these are.
__attribute__((noinline, unused)) void scan_certain(const NetworkView& net, int64_t panel, const float* currents,
                                                    float* mem, PanelBits* bits, int64_t steps, const Certainty& c) {
  const LayerView& layer = net.layers[1];
  const int64_t begin = panel * kPanel, left = layer.n_out - begin;
  Scan scan{};
  scan.current = currents;
  scan.current_stride = kPanel;
  scan.mem = mem + begin;
  scan.spike_bits = reinterpret_cast<char*>(bits + panel);
  scan.stride = bits_stride(layer.panels) * kPanelBytes;
  scan.valid = left < kPanel ? left : kPanel;
  scan.steps = steps;
  with_vectors(panel_vectors(layer, panel), [&](auto vectors) {
    scan_vectors<decltype(vectors)::value>(scan, vector_constants<EagerVec>(net), layer.usual + begin,
                                           layer.excess + begin, layer.bias + begin, c, c.doubtful + panel);
  });
}

// The first layer's neurons, sorted by their currents, run once more in their own order. Lists their spikes; returns
// how many neurons fire.
inline int64_t list_in_order(const NetworkView& net, const LayerView& first, const float* sorted, int64_t steps,
                             const SpikeRuns& runs, const SpikeLists& lists, const DoubtScratch& s) {
  const int64_t n = first.n_out, stride = bits_stride(first.panels), words = (n + 63) / 64;
  __builtin_memcpy(s.current, sorted, static_cast<size_t>(first.padded) * sizeof(float));
  for (int64_t i = 0; i < n; ++i) s.current[runs.order[i]] = sorted[i];
  __builtin_memcpy(s.state, first.initial, static_cast<size_t>(first.padded) * sizeof(float));
  for (int64_t p = 0; p < first.panels; ++p) {
    const int64_t begin = p * kPanel;
    scan_again(net, s.current + begin, 0, panel_vectors(first, p), s.state + begin, s.spikes + p, stride, steps);
  }
  list_spikes(s.spikes, stride, n, steps, quickest_write_row(net.packs_bytes), lists);  // the runs are used up
  int64_t firing = 0;
  for (int64_t w = 0; w < words; ++w) {
    uint64_t any = 0;
    for (int64_t t = 0; t < steps; ++t) any |= row_word(s.spikes + t * stride, w);
    firing += write_ids(w == words - 1 ? any & used_bits(n) : any, static_cast<uint32_t>(w * 64), s.firing + firing);
  }
  return firing;
}

// Of neurons that ran again, a bit each in `settled`: puts their spikes where the others' are.
inline void put_settled(const PanelBits* settled, const uint32_t* neurons, int64_t count, int64_t steps,
                        PanelBits* bits, int64_t stride) {
  for (int64_t l = 0; l < count; ++l) {
    const int64_t place = neurons[l] % kPanel;
    const PanelBits others = static_cast<PanelBits>(~(PanelBits{1} << place));
    PanelBits* word = bits + neurons[l] / kPanel;
    for (int64_t t = 0; t < steps; ++t, word += stride) {
      *word = static_cast<PanelBits>((*word & others) | static_cast<PanelBits>((settled[t] >> l & 1u) << place));
    }
  }
}

// Up to kRow neurons run again, over all steps; their spikes then are in `bits`.
inline void run_again(const NetworkView& net, const LayerView& layer, const uint32_t* neurons, int64_t count,
                      int64_t firing, int64_t steps, const SpikeLists& lists, const DoubtScratch& s, float* currents,
                      PanelBits* bits) {
  constexpr int64_t kColumns = 8;
  static_assert(kRow % kColumns == 0);
  const Segments segments(layer.n_in, kMostRows);
  for (int64_t i = 0; i < segments.count; ++i) {
    __builtin_memset(s.rows + i * (segments.inputs + 1) * kRow, 0, kRow * sizeof(float));
  }
  for (int64_t l = 0; l < kRow; l += kColumns) {
    const float* weights[kColumns];
    for (int64_t i = 0; i < kColumns; ++i) {
      const int64_t j = neurons[l + i < count ? l + i : count - 1];
      weights[i] = layer.by_output + j * layer.n_in;
      s.bias[l + i] = layer.bias[j];
      s.state[l + i] = layer.initial[j];
    }
    int64_t segment = 0;
    for (int64_t f = 0; f < firing; ++f) {
      const int64_t input = s.firing[f];
      while (input >= (segment + 1) * segments.inputs) ++segment;
      float* const row = s.rows + (input + segment + 1) * kRow + l;
#pragma GCC unroll 4
      for (int64_t n = 0; n < kColumns; n += 4) {
        store(row + n, quad(weights[n][input], weights[n + 1][input], weights[n + 2][input], weights[n + 3][input]));
      }
    }
  }
  LayerView again = layer;
  again.rows = s.rows;
  again.bias = s.bias;
  event_currents<kRowVectors, Vec>(again, 0, lists, steps, false, currents);
  scan_again(net, currents, kPanel, kRowVectors, s.state, s.settled, 1, steps);
  put_settled(s.settled, neurons, count, steps, bits, bits_stride(layer.panels));
}

// Runs the second layer's neurons in doubt again, and puts their spikes, in `bits`, where the others' are. Returns how
// many there were. `sorted`: the first layer's currents.
inline int64_t settle_doubts(const NetworkView& net, const Certainty& c, const float* sorted, int64_t steps,
                             const SpikeRuns& runs, const SpikeLists& lists, const DoubtScratch& s, float* currents,
                             PanelBits* bits) {
  const LayerView& layer = net.layers[1];
  if (kHasStepLanes) return settle_in_steps(net, layer, c.doubtful, c.turned, steps, bits);
  int64_t settled = 0, waiting = 0, firing = 0;
  uint32_t neurons[kRow + 64 + kAtOnce];
  const auto settle = [&](int64_t count) {
    if (settled == 0) firing = list_in_order(net, net.layers[0], sorted, steps, runs, lists, s);
    run_again(net, layer, neurons, count, firing, steps, lists, s, currents, bits);
    settled += count;
    waiting -= count;
    for (int64_t i = 0; i < waiting; ++i) neurons[i] = neurons[count + i];
  };
  for (int64_t p = 0; p < layer.panels; ++p) {
    waiting += write_ids(c.doubtful[p], static_cast<uint32_t>(p * kPanel), neurons + waiting);
    while (waiting >= kRow) settle(kRow);
  }
  if (waiting > 0) settle(waiting);
  return settled;
}

}  // namespace
}  // namespace snnfast
