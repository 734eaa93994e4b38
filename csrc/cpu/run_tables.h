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

constexpr int kSmallGroup = 8;                               // samples
constexpr int kGroup = Vec::lanes == 16 ? 16 : kSmallGroup;  // the most
constexpr int64_t kTableTile = 64;                           // time steps
constexpr int64_t kDecisions = 4;                            // so few are quicker one by one
constexpr int64_t kGroupTilesPerPoll = 64;

// Samples of a group of G whose state is in registers at once, where a sample's layer takes V vectors, and its state as
// many or twice that. Twice 16 would fill AVX-512's registers; twice 8 is more than the others have, and still quicker
// there than twice 4.
constexpr int group_part(int V, int G, bool twice) {
  const int vectors = Vec::lanes == 16 && !twice ? 16 : 8;
  return V >= vectors ? 1 : vectors / V < G ? vectors / V : G;
}

// A layer's state and spikes for a group of G samples.
struct TableLayer {
  float* mem;  // (G, width), and so are syn, total, counts
  float* syn;
  float* total;  // of the last layer, for its mean potential
  float* counts;
  uint32_t* spikes;  // (kTableTile, G), then where the next layer's table has their entries, in bytes
};

struct TableScratch {
  float* features[kGroup];
  float* current;  // of the first layer, (G, kTableWidth)
  TableLayer* layers;
};

inline TableScratch take_tables(Arena& arena, const NetworkView& net) {
  TableScratch scratch{};
  const bool plain = features_are_observations(net);
  for (int s = 0; s < kGroup; ++s) scratch.features[s] = plain ? nullptr : arena.take<float>(net.layers[0].n_in);
  scratch.current = arena.take<float>(kGroup * kTableWidth);
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

// One step of a vector of neurons; neighbours subtract in different ways, see FusedVec.
template <class Rule, class T>
SNNFAST_INLINE auto table_step(int s, T& mem, T& syn, T h, const NeuronConstants<T>& c) {
  if constexpr (T::lanes == Vec::lanes) {
    if (s & 1) {
      FusedVec m = mem, y = syn;
      const auto mask = Rule::template step<FusedVec>(m, y, h, {c.alpha, c.beta, c.threshold});
      mem = m;
      syn = y;
      return mask;
    }
  }
  return Rule::step(mem, syn, h, c);
}

// One layer over a tile, for the samples [from, from + S) of a group of G; V vectors of type T are a sample's state.
// Source: 0 a constant current, 1 a table of all inputs, 2 a table of the first inputs.
template <int G, class Rule, class T, int V, int S, int Source>
void scan_part(const TableView& table, const float* current, const uint32_t* input, TableLayer& layer, int from,
               int64_t steps, bool mean, const NeuronConstants<T>& constants) {
  constexpr int L = T::lanes;
  T mem[S][V], syn[S][V];
#pragma GCC unroll 16
  for (int s = 0; s < S; ++s) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      mem[s][v] = load_as<T>(layer.mem + ((from + s) * V + v) * L);
      syn[s][v] = Rule::has_synapse ? load_as<T>(layer.syn + ((from + s) * V + v) * L) : broadcast_as<T>(0.0f);
    }
  }
  for (int64_t t = 0; t < steps; ++t) {
#pragma GCC unroll 16
    for (int s = 0; s < S; ++s) {
      T h[V];
      const uint32_t arrives = Source == 0 ? 0 : input[t * G + from + s];
      if constexpr (Source == 0) {
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) h[v] = load_as<T>(current + (from + s) * kTableWidth + v * L);
      } else if constexpr (Source == 1) {
        look_up_at(table, arrives, h);
      } else {
        look_up<false>(table, arrives, h);
      }
      uint32_t spikes = 0;
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) {
        const auto mask = table_step<Rule>(s, mem[s][v], syn[s][v], h[v], constants);
        if constexpr (Rule::fires) spikes |= bits(mask) << (v * L);
      }
      if constexpr (Rule::fires) {
        layer.spikes[t * G + from + s] = spikes;
      } else if (mean) {
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) {
          float* total = layer.total + ((from + s) * V + v) * L;
          store(total, load_as<T>(total) + mem[s][v]);
        }
      }
    }
  }
#pragma GCC unroll 16
  for (int s = 0; s < S; ++s) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      store(layer.mem + ((from + s) * V + v) * L, mem[s][v]);
      if constexpr (Rule::has_synapse) store(layer.syn + ((from + s) * V + v) * L, syn[s][v]);
    }
  }
}

template <int G, class Rule, class T, int V, int Source>
void scan_group(const TableView& table, const float* current, const uint32_t* input, TableLayer& layer, int64_t samples,
                int64_t steps, bool mean, const NeuronConstants<T>& constants) {
  constexpr int S = group_part(V, G, Rule::has_synapse);
  for (int from = 0; from < samples; from += S) {
    scan_part<G, Rule, T, V, S, Source>(table, current, input, layer, from, steps, mean, constants);
  }
}

// The type and the number of vectors that hold `width` floats.
template <class V, int N>
struct TableVectors {
  using type = V;
  static constexpr int count = N;
};

template <class F>
void with_table_vectors(int64_t width, F&& f) {
  constexpr int half = static_cast<int>(kHalfTableWidth) / Vec::lanes;
  if (width == Quad::lanes) return f(TableVectors<Quad, 1>{});
  if (width == Vec::lanes) return f(TableVectors<Vec, 1>{});
  if (width == kHalfTableWidth) return f(TableVectors<Vec, half>{});
  return f(TableVectors<Vec, 2 * half>{});
}

// In place of spikes, where a table of all inputs has their entries.
inline void to_offsets(uint32_t* spikes, int64_t n, int64_t width) {
  const int shift = __builtin_ctzll(static_cast<uint64_t>(width) * sizeof(float));  // widths are powers of two
  for (int64_t i = 0; i < n; ++i) spikes[i] = table_slot(spikes[i]) << shift;
}

template <int G>
void add_counts(const uint32_t* spikes, int64_t steps, int64_t n, float* counts) {
  for (int64_t t = 0; t < steps; ++t) {
    const uint32_t word = spikes[t * G];
    for (int64_t j = 0; j < n; ++j) counts[j] += static_cast<float>(word >> j & 1u);
  }
}

// The group's samples first .. first + samples - 1. False if interrupted.
template <int G>
bool run_table_group(const NetworkView& net, const Request& request, int64_t first, int64_t samples,
                     const TableScratch& scratch, const Interrupt& interrupt) {
  const LayerView& last = net.layers[net.n_layers - 1];
  const bool mean = net.decoding == static_cast<int>(Decoding::mean_potential);
  const bool synapses = net.delayed || net.alpha != 0.0f;
  const float* inputs[G];
  float* currents[G];
  for (int s = 0; s < G; ++s) {  // past the last sample the group is filled up with that one
    const float* x = request.observations + (first + (s < samples ? s : samples - 1)) * net.n_in;
    if (scratch.features[s]) write_features(net, x, scratch.features[s]);
    inputs[s] = scratch.features[s] ? scratch.features[s] : x;
    currents[s] = scratch.current + s * kTableWidth;
  }
  const int64_t shared = (samples + kSharing - 1) / kSharing * kSharing;
  constant_currents(net.layers[0], inputs, currents, shared, 0, net.layers[0].panels);
  for (int64_t l = 0; l < net.n_layers; ++l) {
    const LayerView& layer = net.layers[l];
    const TableLayer& state = scratch.layers[l];
    const int64_t width = net.tables[l].width;
    const size_t bytes = static_cast<size_t>(G * width) * sizeof(float);
    const int64_t starts = layer.padded < width ? layer.padded : width;
    if (starts < width) __builtin_memset(state.mem, 0, bytes);
    if (synapses) __builtin_memset(state.syn, 0, bytes);
    if (mean) __builtin_memset(state.total, 0, bytes);
    if (layer.fires) __builtin_memset(state.counts, 0, bytes);
    // A layer may take more samples at once than the one before it has left spikes of.
    if (samples < G) __builtin_memset(state.spikes, 0, kTableTile * G * sizeof(uint32_t));
    for (int s = 0; s < G; ++s) {
      __builtin_memcpy(state.mem + s * width, layer.initial, static_cast<size_t>(starts) * sizeof(float));
    }
  }
  const bool first_spike = net.decoding == static_cast<int>(Decoding::first_spike);
  uint32_t answer[G] = {};
  const int64_t tiles = (net.timesteps + kTableTile - 1) / kTableTile;
  for (int64_t i = 0; i < tiles; ++i) {
    if (i % kGroupTilesPerPoll == 0 && interrupt.poll(interrupt.context)) return false;
    const int64_t steps = net.timesteps * (i + 1) / tiles - net.timesteps * i / tiles;  // as equal as can be
    for (int64_t l = 0; l < net.n_layers; ++l) {
      const LayerView& layer = net.layers[l];
      TableLayer& state = scratch.layers[l];
      const TableView& table = net.tables[l];
      const uint32_t* input = l ? scratch.layers[l - 1].spikes : nullptr;
      with_rule(net, layer.fires, [&](auto rule) {
        using Rule = decltype(rule);
        with_table_vectors(table.width, [&](auto vectors) {
          using T = typename decltype(vectors)::type;
          constexpr int V = decltype(vectors)::count;
          // Only layers that never fire have rows that are narrower than a vector.
          if constexpr (!Rule::fires || V * T::lanes >= kHalfTableWidth) {
            auto* scan = l == 0       ? scan_group<G, Rule, T, V, 0>
                         : table.rest ? scan_group<G, Rule, T, V, 2>
                                      : scan_group<G, Rule, T, V, 1>;
            scan(table, scratch.current, input, state, samples, steps, mean, vector_constants<T>(net));
          }
        });
      });
      if (!layer.fires) continue;
      const int64_t width = table.width;
      const bool output = l == net.n_layers - 1;
      for (int64_t s = 0; s < samples && (request.spike_counts || output); ++s) {
        add_counts<G>(state.spikes + s, steps, layer.n_out, state.counts + s * width);
      }
      for (int64_t s = 0; s < samples && output && first_spike; ++s) {
        for (int64_t t = 0; t < steps && !answer[s]; ++t) answer[s] = state.spikes[t * G + s];
      }
      if (!output && !net.tables[l + 1].rest) to_offsets(state.spikes, steps * G, net.tables[l + 1].width);
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
  if (count == 1 && decides_at_once(net, request)) {  // without scratch
    table_decision(net, request, first);
    return true;
  }
  Arena arena{memory};
  const TableScratch scratch = take_tables(arena, net);
  // Currents past a layer's own stay zeros; a group's samples that do not exist have those of the group before.
  __builtin_memset(scratch.current, 0, kGroup * kTableWidth * sizeof(float));
  const bool singly = decides_at_once(net, request);
  for (int64_t i = 0; i < count;) {
    const int64_t left = count - i;
    if (singly && left <= kDecisions) {
      table_decision(net, request, first + i);
      ++i;
      continue;
    }
    const bool large = left > kSmallGroup + kDecisions;
    const int64_t group = large ? kGroup : kSmallGroup, samples = left < group ? left : group;
    auto* run = large ? run_table_group<kGroup> : run_table_group<kSmallGroup>;
    if (!run(net, request, first + i, samples, scratch, interrupt)) return false;
    i += samples;
  }
  return true;
}

}  // namespace
}  // namespace snnfast
