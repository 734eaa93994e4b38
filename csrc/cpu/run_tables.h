// SPDX-License-Identifier: Apache-2.0
// Method "tables": networks of narrow layers under constant encoding. A layer's spikes are the bits of one word, and
// that word is the address of the next layer's current.
//
// A group of samples goes through layer after layer over a tile of time steps: the states of a few samples fill the
// registers and hide each other's latency, and the words of a whole tile are known before the next layer looks them up.
// A single sample takes the way of table_decision.h.
#pragma once

#include "core/modes.h"
#include "cpu/arena.h"
#include "cpu/constant_current.h"
#include "cpu/features.h"
#include "cpu/panels.h"
#include "cpu/table_decision.h"
#include "cpu/table_lookup.h"

namespace snnfast {
namespace {

constexpr int kGroup = 8;           // samples
constexpr int64_t kTableTile = 64;  // time steps
constexpr int64_t kGroupStepsPerPoll = 64 * kTableTile;

// Samples whose state is in registers at once, where a sample's state takes V vectors.
constexpr int group_part(int V) {
  const int vectors = Vec::lanes == 16 ? 16 : 8;
  return V >= vectors ? 1 : vectors / V < kGroup ? vectors / V : kGroup;
}

// A layer's state and spikes for a group of samples.
struct TableLayer {
  float* mem;  // (kGroup, width), and so are syn, total, counts
  float* syn;
  float* total;  // of the last layer, for its mean potential
  float* counts;
  uint32_t* spikes;  // (kTableTile, kGroup)
};

struct TableScratch {
  float* features[kGroup];
  float* current[kGroup];  // of the first layer, (width)
  TableLayer* layers;
};

inline TableScratch take_tables(Arena& arena, const NetworkView& net) {
  TableScratch scratch{};
  const bool plain = features_are_observations(net);
  for (int s = 0; s < kGroup; ++s) scratch.features[s] = plain ? nullptr : arena.take<float>(net.layers[0].n_in);
  for (int s = 0; s < kGroup; ++s) scratch.current[s] = arena.take<float>(kTableWidth);
  scratch.layers = arena.take<TableLayer>(net.n_layers);
  for (int64_t l = 0; l < net.n_layers; ++l) {
    TableLayer layer{};
    layer.mem = arena.take<float>(kGroup * kTableWidth);
    layer.syn = arena.take<float>(kGroup * kTableWidth);
    layer.total = arena.take<float>(kGroup * kTableWidth);
    layer.counts = arena.take<float>(kGroup * kTableWidth);
    layer.spikes = arena.take<uint32_t>(kTableTile * kGroup);
    if (arena.base) scratch.layers[l] = layer;
  }
  return scratch;
}

int64_t tables_scratch_bytes(const NetworkView& net) {
  Arena arena{nullptr};
  take_tables(arena, net);
  return arena.used;
}

// One layer over a tile, for the samples [from, from + S) of the group.
// Source: 0 a constant current, 1 a table of all inputs, 2 a table of the first inputs.
template <class Rule, int V, int S, int Source>
void scan_part(const TableView& table, const float* const* current, const uint32_t* input, TableLayer& layer, int from,
               int64_t steps, bool mean, const NeuronConstants<Vec>& constants) {
  constexpr int L = Vec::lanes;
  Vec mem[S][V], syn[S][V];
#pragma GCC unroll 8
  for (int s = 0; s < S; ++s) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      mem[s][v] = load(layer.mem + ((from + s) * V + v) * L);
      syn[s][v] = Rule::has_synapse ? load(layer.syn + ((from + s) * V + v) * L) : broadcast(0.0f);
    }
  }
  for (int64_t t = 0; t < steps; ++t) {
#pragma GCC unroll 8
    for (int s = 0; s < S; ++s) {
      Vec h[V];
      if constexpr (Source == 0) {
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) h[v] = load(current[from + s] + v * L);
      } else {
        look_up<V, Source == 1>(table, input[t * kGroup + from + s], h);
      }
      uint32_t spikes = 0;
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) {
        const auto mask = Rule::step(mem[s][v], syn[s][v], h[v], constants);
        if constexpr (Rule::fires) spikes |= bits(mask) << (v * L);
      }
      if constexpr (Rule::fires) {
        layer.spikes[t * kGroup + from + s] = spikes;
      } else if (mean) {
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) {
          float* total = layer.total + ((from + s) * V + v) * L;
          store(total, load(total) + mem[s][v]);
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int s = 0; s < S; ++s) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      store(layer.mem + ((from + s) * V + v) * L, mem[s][v]);
      if constexpr (Rule::has_synapse) store(layer.syn + ((from + s) * V + v) * L, syn[s][v]);
    }
  }
}

template <class Rule, int V, int Source>
void scan_group(const TableView& table, const float* const* current, const uint32_t* input, TableLayer& layer,
                int64_t samples, int64_t steps, bool mean, const NeuronConstants<Vec>& constants) {
  constexpr int S = group_part(V);
  for (int from = 0; from < samples; from += S) {
    scan_part<Rule, V, S, Source>(table, current, input, layer, from, steps, mean, constants);
  }
}

template <class F>
void with_table_vectors(int64_t vectors, F&& f) {
  constexpr int most = static_cast<int>(kTableWidth) / Vec::lanes;
  if (vectors == 1) return f(VectorCount<1>{});
  if (vectors == 2) return f(VectorCount<2>{});
  if constexpr (most >= 4) {
    if (vectors == 4) return f(VectorCount<4>{});
  }
  if constexpr (most >= 8) return f(VectorCount<8>{});
}

inline void add_counts(const uint32_t* spikes, int64_t steps, int64_t n, float* counts) {
  for (int64_t t = 0; t < steps; ++t) {
    const uint32_t word = spikes[t * kGroup];
    for (int64_t j = 0; j < n; ++j) counts[j] += static_cast<float>(word >> j & 1u);
  }
}

// The group's samples first .. first + samples - 1. False if interrupted.
bool run_table_group(const NetworkView& net, const Request& request, int64_t first, int64_t samples,
                     const TableScratch& scratch, const Interrupt& interrupt) {
  const NeuronConstants<Vec> constants = vector_constants(net);
  const LayerView& last = net.layers[net.n_layers - 1];
  const bool mean = net.decoding == static_cast<int>(Decoding::mean_potential);
  const float* inputs[kGroup];
  for (int s = 0; s < kGroup; ++s) {  // past the last sample the group is filled up with that one
    const float* x = request.observations + (first + (s < samples ? s : samples - 1)) * net.n_in;
    if (scratch.features[s]) write_features(net, x, scratch.features[s]);
    inputs[s] = scratch.features[s] ? scratch.features[s] : x;
    __builtin_memset(scratch.current[s], 0, static_cast<size_t>(kTableWidth) * sizeof(float));
  }
  constant_currents(net.layers[0], inputs, scratch.current, samples <= kSharing ? kSharing : kGroup, 0,
                    net.layers[0].panels);
  for (int64_t l = 0; l < net.n_layers; ++l) {
    const LayerView& layer = net.layers[l];
    const TableLayer& state = scratch.layers[l];
    const int64_t width = net.tables[l].width;
    const size_t bytes = static_cast<size_t>(kGroup * width) * sizeof(float);
    __builtin_memset(state.mem, 0, bytes);
    __builtin_memset(state.syn, 0, bytes);
    __builtin_memset(state.total, 0, bytes);
    __builtin_memset(state.counts, 0, bytes);
    // A layer may take more samples at once than the one before it has left spikes of.
    if (samples < kGroup) __builtin_memset(state.spikes, 0, kTableTile * kGroup * sizeof(uint32_t));
    for (int s = 0; s < kGroup; ++s) {
      __builtin_memcpy(state.mem + s * width, layer.initial, static_cast<size_t>(layer.padded) * sizeof(float));
    }
  }
  const bool first_spike = net.decoding == static_cast<int>(Decoding::first_spike);
  uint32_t answer[kGroup] = {};
  for (int64_t t0 = 0; t0 < net.timesteps; t0 += kTableTile) {
    if (t0 % kGroupStepsPerPoll == 0 && interrupt.poll(interrupt.context)) return false;
    const int64_t steps = net.timesteps - t0 < kTableTile ? net.timesteps - t0 : kTableTile;
    for (int64_t l = 0; l < net.n_layers; ++l) {
      const LayerView& layer = net.layers[l];
      TableLayer& state = scratch.layers[l];
      const TableView& table = net.tables[l];
      const uint32_t* input = l ? scratch.layers[l - 1].spikes : nullptr;
      with_rule(net, layer.fires, [&](auto rule) {
        using Rule = decltype(rule);
        with_table_vectors(table.width / Vec::lanes, [&](auto vectors) {
          constexpr int V = decltype(vectors)::value;
          auto* scan = l == 0 ? scan_group<Rule, V, 0> : table.rest ? scan_group<Rule, V, 2> : scan_group<Rule, V, 1>;
          scan(table, scratch.current, input, state, samples, steps, mean, constants);
        });
      });
      if (!layer.fires) continue;
      const int64_t width = table.width;
      const bool output = l == net.n_layers - 1;
      for (int64_t s = 0; s < samples && (request.spike_counts || output); ++s) {
        add_counts(state.spikes + s, steps, layer.n_out, state.counts + s * width);
      }
      for (int64_t s = 0; s < samples && output && first_spike; ++s) {
        for (int64_t t = 0; t < steps && !answer[s]; ++t) answer[s] = state.spikes[t * kGroup + s];
      }
    }
  }
  const TableLayer& end = scratch.layers[net.n_layers - 1];
  const int64_t width = net.tables[net.n_layers - 1].width;
  for (int64_t s = 0; s < samples; ++s) {
    float* output = request.output + (first + s) * last.n_out;
    for (int64_t j = 0; j < last.n_out; ++j) {
      output[j] = first_spike  ? static_cast<float>(answer[s] >> j & 1u)
                  : last.fires ? end.counts[s * width + j]
                  : mean       ? end.total[s * width + j] / static_cast<float>(net.timesteps)
                               : end.mem[s * width + j];
    }
    for (int64_t l = 0; request.spike_counts && l < net.n_layers && net.layers[l].fires; ++l) {
      const int64_t n = net.layers[l].n_out, stride = net.tables[l].width;
      __builtin_memcpy(request.spike_counts[l] + (first + s) * n, scratch.layers[l].counts + s * stride,
                       static_cast<size_t>(n) * sizeof(float));
    }
  }
  return true;
}

bool run_tables(const NetworkView& net, const Request& request, int64_t first, int64_t count, char* memory,
                const Interrupt& interrupt) {
  if (interrupt.poll(interrupt.context)) return false;
  if (count == 1 && decides_at_once(net, request)) {
    table_decision(net, request, first);
    return true;
  }
  Arena arena{memory};
  const TableScratch scratch = take_tables(arena, net);
  for (int64_t i = 0; i < count; i += kGroup) {
    const int64_t samples = count - i < kGroup ? count - i : kGroup;
    if (samples == 1 && decides_at_once(net, request)) {
      table_decision(net, request, first + i);
    } else {
      if (!run_table_group(net, request, first + i, samples, scratch, interrupt)) return false;
    }
  }
  return true;
}

}  // namespace
}  // namespace snnfast
