// SPDX-License-Identifier: Apache-2.0
// Method "tables": networks of narrow layers under constant encoding. A layer's spikes are the bits of one word, and
// that word is the address of the next layer's current.
//
// A group of samples goes through layer after layer over a tile of time steps: the states of a few samples fill the
// registers and hide each other's latency, and the words of a whole tile are known before the next layer looks them up.
// Few outputs that only accumulate go along with the layer before them. A single sample takes the way of
// table_decision.h.
#pragma once

#include "core/modes.h"
#include "cpu/arena.h"
#include "cpu/constant_current.h"
#include "cpu/features.h"
#include "cpu/panels.h"
#include "cpu/table_decision.h"
#include "cpu/table_lookup.h"
#include "cpu/train_words.h"

namespace snnfast {
namespace {

constexpr int kSmallGroup = 8;                               // samples
constexpr int kGroup = Vec::lanes == 16 ? 16 : kSmallGroup;  // the most
constexpr int64_t kTableTile = 128;                          // time steps
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
  // (G, kTableTile) words, see WordOf; where the next layer's table has all inputs, then their slots, of samples that
  // there are
  void* spikes;
};

// A word that holds the spikes of up to `Bits` neurons.
template <bool Wide>
struct WordType {
  using type = uint16_t;
};
template <>
struct WordType<true> {
  using type = uint32_t;
};
template <int Bits>
using WordOf = typename WordType<(Bits > 16)>::type;

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

template <class Word, class Mask>
SNNFAST_INLINE void store_word(Word* to, Mask mask) {
  *to = static_cast<Word>(bits(mask));
}
#if defined(__AVX512F__) && defined(__AVX512DQ__)
SNNFAST_INLINE void store_word(uint16_t* to, Mask mask) { store_bits(to, 0, mask); }
#endif

// One layer over a tile, for the samples [from, from + S) of a group; V vectors of type T are a sample's state.
// Source: 0 a constant current, 1 a table of all inputs, 2 a table of the first inputs.
template <class Rule, class T, int V, int S, int Source>
void scan_part(const TableView& table, const float* current, const void* input, TableLayer& layer, int from,
               int64_t steps, bool mean, const NeuronConstants<T>& constants) {
  constexpr int L = T::lanes;
  using Word = WordOf<V * L>;
  const auto* const arriving = static_cast<const WordOf<Source == 2 ? 32 : 16>*>(input) + from * kTableTile;
  auto* const leaving = static_cast<Word*>(layer.spikes) + from * kTableTile;
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
      if constexpr (Source == 0) {
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) h[v] = load_as<T>(current + (from + s) * kTableWidth + v * L);
      } else if constexpr (Source == 1) {
        look_up_at(table, arriving[s * kTableTile + t], h);
      } else {
        look_up<false>(table, arriving[s * kTableTile + t], h);
      }
      uint32_t spikes = 0;
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) {
        const auto mask = step_beside<Rule>(s, mem[s][v], syn[s][v], h[v], constants);
        if constexpr (Rule::fires && V == 1) store_word(leaving + s * kTableTile + t, mask);
        if constexpr (Rule::fires && V > 1) spikes |= bits(mask) << (v * L);
      }
      if constexpr (Rule::fires) {
        if constexpr (V > 1) leaving[s * kTableTile + t] = static_cast<Word>(spikes);
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
void scan_group(const TableView& table, const float* current, const void* input, TableLayer& layer, int64_t samples,
                int64_t steps, bool mean, const NeuronConstants<T>& constants) {
  constexpr int S = group_part(V, G, Rule::has_synapse);
  for (int from = 0; from < samples; from += S) {
    scan_part<Rule, T, V, S, Source>(table, current, input, layer, from, steps, mean, constants);
  }
}

// The last hidden layer over a tile together with the last layer, which has few outputs and only accumulates: the words
// need not be kept. For the plain neuron; the others have more to hold in registers, and would make the code larger
// than they would gain.
using PlainRule = NeuronRule<false, Reset::subtraction, false, false>;

#if defined(__AVX2__)
using Outputs = Quad;  // of the last layer
#else
using Outputs = Vec;
#endif

// Stride: of the last layer's table.
template <int V, int S, int64_t Stride, bool Mean>
void scan_last_part(const TableView& table, const TableView& last_table, const uint16_t* arriving, TableLayer& layer,
                    TableLayer& last, int from, int64_t steps, const NeuronConstants<FusedVec>& constants,
                    const NeuronConstants<Outputs>& last_constants) {
  constexpr int L = Vec::lanes;
  FusedVec mem[S][V];
  Outputs out[S], total[S];
#pragma GCC unroll 8
  for (int s = 0; s < S; ++s) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) mem[s][v] = load(layer.mem + ((from + s) * V + v) * L);
    out[s] = load_as<Outputs>(last.mem + (from + s) * Outputs::lanes);
    if constexpr (Mean) total[s] = load_as<Outputs>(last.total + (from + s) * Outputs::lanes);
  }
  arriving += from * kTableTile;
  for (int64_t t = 0; t < steps; ++t) {
#pragma GCC unroll 8
    for (int s = 0; s < S; ++s) {
      FusedVec h[V];
      look_up_at(table, arriving[s * kTableTile + t], h);
      uint32_t spikes = 0;
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) {
        FusedVec none;
        spikes |= bits(PlainRule::step(mem[s][v], none, h[v], constants)) << (v * L);
      }
      Outputs current[1];
      look_up_at<Stride>(last_table, spikes, current);
      Outputs none;
      decltype(without_reset(PlainRule{}))::step(out[s], none, current[0], last_constants);
      if constexpr (Mean) total[s] = total[s] + out[s];
    }
  }
#pragma GCC unroll 8
  for (int s = 0; s < S; ++s) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) store(layer.mem + ((from + s) * V + v) * L, mem[s][v]);
    store(last.mem + (from + s) * Outputs::lanes, out[s]);
    if constexpr (Mean) store(last.total + (from + s) * Outputs::lanes, total[s]);
  }
}

inline bool last_two_at_once(const NetworkView& net, const Request& request) {
  const int64_t n = net.n_layers;
  return n >= 3 && !net.layers[n - 1].fires && net.tables[n - 1].width == Outputs::lanes &&
         net.tables[n - 2].width == kHalfTableWidth && !net.tables[n - 2].rest && !request.spike_counts &&
         !net.delayed && !net.reset_to_zero && net.alpha == 0.0f && net.beta == 1.0f;
}

template <int G>
void scan_last_two(const NetworkView& net, const void* input, TableLayer* layers, int64_t samples, int64_t steps,
                   bool mean) {
  constexpr int V = kHalfTableWidth / Vec::lanes, S = group_part(V, G, true);
  const TableView *table = net.tables + net.n_layers - 2, *last = table + 1;
  constexpr int64_t few = kFewOutputs, fewest = kFewestOutputs;
  auto* scan = last->stride == fewest ? mean ? scan_last_part<V, S, fewest, true> : scan_last_part<V, S, fewest, false>
               : mean                 ? scan_last_part<V, S, few, true>
                                      : scan_last_part<V, S, few, false>;
  for (int from = 0; from < samples; from += S) {
    scan(*table, *last, static_cast<const uint16_t*>(input), layers[0], layers[1], from, steps,
         vector_constants<FusedVec>(net), vector_constants<Outputs>(net));
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

// The spikes of the first layer, from its trains; slots: those of the next layer's table instead.
template <int G>
void train_words(const NetworkView& net, const float* currents, uint16_t* words, int64_t samples, bool slots) {
  static_assert(kTrainSteps == kTableTile && kTrainNeurons <= kTableWidth);
  TrainPlaces places[G];
  for (int64_t s = 0; s < samples; ++s) find_buckets(*net.trains, currents + s * kTableWidth, places[s]);
  for (int64_t s = 0; s < samples; ++s) find_trains(*net.trains, places[s]);
  quickest_turn_trains(net.turns_bits)(net.trains->trains, places, samples, slots, words);
}

// Sixteen neurons at once: each has a word to count in, which holds far more than a tile's steps.
template <class Word>
void add_counts(const Word* spikes, int64_t steps, int64_t n, float* counts) {
  constexpr int kWords = 16;
  using Words = uint16_t __attribute__((vector_size(2 * kWords)));
  static_assert(kTableTile < 1 << 16);
  constexpr Words bit = {1,      1 << 1, 1 << 2,  1 << 3,  1 << 4,  1 << 5,  1 << 6,  1 << 7,
                         1 << 8, 1 << 9, 1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15};
  for (int64_t from = 0; from < n; from += kWords) {
    Words found = {};
    for (int64_t t = 0; t < steps; ++t) {
      const auto word = static_cast<uint16_t>(spikes[t] >> from);
      found -= (bit & word) == bit;  // true is -1
    }
    for (int64_t j = 0; j < kWords && from + j < n; ++j) counts[from + j] += static_cast<float>(found[j]);
  }
}

// The first word that is not zero, else 0.
template <class Word>
uint32_t first_spikes(const Word* spikes, int64_t steps) {
  uint32_t word = 0;
  for (int64_t t = 0; t < steps && !word; ++t) word = spikes[t];
  return word;
}

// The group's samples first .. first + samples - 1. False if interrupted.
template <int G>
bool run_table_group(const NetworkView& net, const Request& request, int64_t first, int64_t samples,
                     const TableScratch& scratch, const Interrupt& interrupt) {
  const LayerView& last = net.layers[net.n_layers - 1];
  const bool mean = net.decoding == static_cast<int>(Decoding::mean_potential);
  const bool synapses = net.delayed || net.alpha != 0.0f, together = last_two_at_once(net, request);
  const auto counted = [&](int64_t l) {
    return net.layers[l].fires && (request.spike_counts || l == net.n_layers - 1);
  };
  const auto by_slots = [&](int64_t l) {  // whether the next layer looks layer l's spikes up by their slots
    return l < net.n_layers - 1 && net.tables[l].width <= kTableBits && net.tables[l + 1].width > kFewOutputs;
  };
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
    if (starts < width || !layer.fires) __builtin_memset(state.mem, 0, bytes);  // one that never fires starts at 0
    if (synapses) __builtin_memset(state.syn, 0, bytes);
    if (mean) __builtin_memset(state.total, 0, bytes);
    if (counted(l)) __builtin_memset(state.counts, 0, bytes);
    // A layer may take more samples at once than the one before it has left spikes of.
    if (samples < G) __builtin_memset(state.spikes, 0, kTableTile * G * sizeof(uint32_t));
    if (!layer.fires || (l == 0 && net.trains)) continue;
    for (int s = 0; s < G; ++s) {
      for (int64_t j = 0; j < starts; j += Vec::lanes) store(state.mem + s * width + j, load(layer.initial + j));
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
      const void* input = l ? scratch.layers[l - 1].spikes : nullptr;
      if (together && l == net.n_layers - 2) {
        scan_last_two<G>(net, input, scratch.layers + l, samples, steps, mean);
        break;
      }
      if (l == 0 && net.trains) {  // all steps are one tile then
        const bool slots = by_slots(0) && !counted(0);
        train_words<G>(net, scratch.current, static_cast<uint16_t*>(state.spikes), samples, slots);
        if (slots) continue;
      } else {
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
      }
      if (!layer.fires) continue;
      const int64_t width = table.width;
      const bool output = l == net.n_layers - 1;
      const auto read = [&](auto* words) {
        for (int64_t s = 0; s < samples; ++s, words += kTableTile) {
          if (counted(l)) add_counts(words, steps, layer.n_out, state.counts + s * width);
          if (output && first_spike && !answer[s]) answer[s] = first_spikes(words, steps);
        }
      };
      if (width > kTableBits) {
        read(static_cast<const uint32_t*>(state.spikes));
      } else {
        auto* const words = static_cast<uint16_t*>(state.spikes);
        read(words);
        for (int64_t s = 0; s < samples && by_slots(l); ++s) to_slots(words + s * kTableTile, steps);
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
