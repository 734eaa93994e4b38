// SPDX-License-Identifier: Apache-2.0
// One decision of a network of one or two narrow hidden layers: the whole network step by step, everything in
// registers. It is bound by the latency of the first layer's chain of steps (see EagerVec); the layers behind it run in
// its shadow.
#pragma once

#include "core/modes.h"
#include "cpu/constant_current.h"
#include "cpu/features.h"
#include "cpu/panels.h"
#include "cpu/table_lookup.h"

namespace snnfast {
namespace {

constexpr int64_t kDecisionLayers = 3;
constexpr int64_t kDecisionSteps = 1 << 18;  // no interrupt is asked on the way

inline bool decides_at_once(const NetworkView& net, const Request& request) {
  return net.n_layers >= 2 && net.n_layers <= kDecisionLayers && !net.layers[net.n_layers - 1].fires &&
         net.tables[0].width == net.tables[net.n_layers - 2].width &&
         net.tables[net.n_layers - 1].width <= (kHalfTableWidth > Vec::lanes ? kHalfTableWidth : Vec::lanes) &&
         net.timesteps <= kDecisionSteps && features_are_observations(net) && !request.spike_counts;
}

// The neuron's dynamics without firing: those of the last layer.
template <bool Delayed, Reset reset, bool A, bool B>
NeuronRule<Delayed, Reset::none, A, B> without_reset(NeuronRule<Delayed, reset, A, B>);

// V: vectors of a hidden layer; LastV of type Last: of the last layer. All: every table holds all inputs.
template <class Rule, int Hidden, int V, class Last, int LastV, bool All>
void decide(const NetworkView& net, const Request& request, int64_t row) {
  using LastRule = decltype(without_reset(Rule{}));
  constexpr int L = Vec::lanes;
  const NeuronConstants<EagerVec> constants = vector_constants<EagerVec>(net);
  const NeuronConstants<Last> last_constants = vector_constants<Last>(net);
  const bool mean = net.decoding == static_cast<int>(Decoding::mean_potential);
  float currents[V * L] = {};
  const float* x = request.observations + row * net.n_in;
  float* const to = currents;
  constant_currents(net.layers[0], &x, &to, 1, 0, net.layers[0].panels);
  EagerVec mem[Hidden][V], syn[Hidden][V];
  Last last_mem[LastV], last_syn[LastV], total[LastV];
#pragma GCC unroll 8
  for (int l = 0; l < Hidden; ++l) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      const bool real = v * L < net.layers[l].padded;
      mem[l][v] = real ? load(net.layers[l].initial + v * L) : broadcast(0.0f);
      syn[l][v] = broadcast(0.0f);
    }
  }
#pragma GCC unroll 8
  for (int v = 0; v < LastV; ++v) last_mem[v] = last_syn[v] = total[v] = broadcast_as<Last>(0.0f);
  const TableView* tables = net.tables;
  for (int64_t t = 0; t < net.timesteps; ++t) {
    uint32_t spikes = 0;
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      const auto mask = Rule::step(mem[0][v], syn[0][v], load_as<EagerVec>(currents + v * L), constants);
      spikes |= bits(mask) << (v * L);
    }
#pragma GCC unroll 2
    for (int l = 1; l < Hidden; ++l) {
      EagerVec h[V];
      look_up<All>(tables[l], spikes, h);
      spikes = 0;
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) {
        const auto mask = Rule::step(mem[l][v], syn[l][v], h[v], constants);
        spikes |= bits(mask) << (v * L);
      }
    }
    Last h[LastV];
    look_up<All>(tables[Hidden], spikes, h);
#pragma GCC unroll 8
    for (int v = 0; v < LastV; ++v) {
      LastRule::step(last_mem[v], last_syn[v], h[v], last_constants);
      total[v] = total[v] + last_mem[v];
    }
  }
  const LayerView& last = net.layers[net.n_layers - 1];
  float out[LastV * Last::lanes];
  for (int v = 0; v < LastV; ++v) store(out + v * Last::lanes, mean ? total[v] : last_mem[v]);
  float* output = request.output + row * last.n_out;
  for (int64_t j = 0; j < last.n_out; ++j) output[j] = mean ? out[j] / static_cast<float>(net.timesteps) : out[j];
}

template <class Rule, int Hidden, bool Wide>
void decide_any_width(const NetworkView& net, const Request& request, int64_t row) {
  constexpr int Half = static_cast<int>(kHalfTableWidth) / Vec::lanes, V = Wide ? 2 * Half : Half;
  // Layers of half the width have few enough inputs for a table of them all.
  static_assert(kHalfTableWidth <= kTableBits, "a narrow layer's table holds all patterns");
  const int64_t width = net.tables[Hidden].width;
  if (width == kFewOutputs) return decide<Rule, Hidden, V, Quad, 1, !Wide>(net, request, row);
  if (width == Vec::lanes) return decide<Rule, Hidden, V, Vec, 1, !Wide>(net, request, row);
  return decide<Rule, Hidden, V, Vec, Half, !Wide>(net, request, row);
}

void table_decision(const NetworkView& net, const Request& request, int64_t row) {
  const bool wide = net.tables[0].width > kHalfTableWidth, two = net.n_layers == 3;
  with_rule(net, true, [&](auto rule) {
    using Rule = decltype(rule);
    auto* run = wide  ? two ? decide_any_width<Rule, 2, true> : decide_any_width<Rule, 1, true>
                : two ? decide_any_width<Rule, 2, false>
                      : decide_any_width<Rule, 1, false>;
    run(net, request, row);
  });
}

}  // namespace
}  // namespace snnfast
