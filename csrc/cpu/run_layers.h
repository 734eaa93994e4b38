// SPDX-License-Identifier: Apache-2.0
// A block of samples through all layers, layer by layer over a tile of time steps. Serves every size, option and
// record. A layer hands over its spikes as bits. The next one takes them as lists of the inputs that spiked (method
// "events") or as bytes of a matrix (method "slices"), whichever costs less for as many spikes as there are; or, behind
// a constant current, as runs of neighbours (method "prefix sums"), where that current says that it costs less still.
#pragma once

#include "core/encoding.h"
#include "core/modes.h"
#include "cpu/arena.h"
#include "cpu/certain_spikes.h"
#include "cpu/constant_current.h"
#include "cpu/counted_layer.h"
#include "cpu/features.h"
#include "cpu/layer_scan.h"
#include "cpu/layer_slices.h"
#include "cpu/prefix_sums.h"
#include "cpu/spike_ids.h"
#include "cpu/step_lanes.h"

namespace snnfast {
namespace {

// Asks whether to stop after so much work that asking costs nothing beside it, at least every few hundredths of a
// second.
struct Polls {
  static constexpr int64_t kWork = 1 << 21;  // in weights that are added
  const Interrupt& interrupt;
  int64_t left = kWork;

  bool stop(int64_t work) {
    left -= work;
    if (left > 0) return false;
    left = kWork;
    return interrupt.poll(interrupt.context);
  }
};

// What one sample carries from tile to tile, and its buffers within a tile.
struct SampleState {
  float* encoded;     // (features)
  float* next_spike;  // (features), equidistant: number of each input's next spike
  float* constant;    // (padded 0), constant encoding: the first layer's current
  float* mem;         // all layers one after the other
  float* syn;
  float* total;   // (padded last)
  float* counts;  // (inputs of the last layer, in whole words), where those are counted
  bool* answered;
  SpikeLists lists;
  PanelBits* spike_bits;  // (tile, bits_stride); of the encoded input, then of layer after layer
  SpikeRuns runs;
  bool sorted;  // the first layer's neurons, by their currents: the second layer takes their spikes as runs
  Certainty certainty;
};

// Whether layer l takes a sample's spikes as runs.
inline bool takes_runs(const SampleState& s, int64_t l) { return l == 1 && s.sorted; }

// Prefix sums of the second layer, or null; whether its spikes then have to be made certain.
inline const SumsView* sums_of(const NetworkView& net) { return net.n_layers > 1 ? net.layers[1].sums : nullptr; }
inline bool in_doubt(const NetworkView& net) { return sums_of(net) && sums_of(net)->in_doubt; }

struct Sizes {
  int64_t features, padded_sum = 0, widest = 0, most_panels = 0, last_padded;
  explicit Sizes(const NetworkView& net)
      : features(net.layers[0].n_in), last_padded(net.layers[net.n_layers - 1].padded) {
    const bool encoded = net.encoding != static_cast<int>(Encoding::constant);
    widest = encoded ? features : 1;
    if (encoded) most_panels = (features + kPanel - 1) / kPanel;
    for (int64_t l = 0; l < net.n_layers; ++l) {
      const LayerView& layer = net.layers[l];
      padded_sum += layer.padded;
      if (!layer.fires) continue;
      if (layer.n_out > widest) widest = layer.n_out;
      if (layer.panels > most_panels) most_panels = layer.panels;
    }
  }
};

// In whole words of spikes.
inline int64_t counted_inputs(const NetworkView& net) { return whole_words(net.layers[net.n_layers - 1].n_in); }

SampleState take_sample(Arena& arena, const NetworkView& net, const Sizes& sizes) {
  SampleState s;
  s.encoded = arena.take<float>(sizes.features);
  s.next_spike = arena.take<float>(sizes.features);
  s.constant = arena.take<float>(net.layers[0].padded);
  s.mem = arena.take<float>(sizes.padded_sum);
  s.syn = arena.take<float>(sizes.padded_sum);
  s.total = arena.take<float>(sizes.last_padded);
  s.counts = arena.take<float>(net.counted ? counted_inputs(net) : 0);
  s.answered = arena.take<bool>(1);
  const SumsView* const sums = sums_of(net);
  const int64_t ids = sums ? run_ids(sizes.widest) : sizes.widest;
  s.lists = take_lists(arena, ids, (sizes.widest + kMostRows - 1) / kMostRows, net.tile);
  s.spike_bits = arena.take<PanelBits>(net.tile * bits_stride(sizes.most_panels));
  s.sorted = false;
  if (sums) s.runs = take_runs(arena, net.layers[0].n_out, net.tile, s.lists.ids);
  if (in_doubt(net)) s.certainty = take_certainty(arena, net.layers[1], net.tile);
  if (in_doubt(net) && kHasStepLanes) s.certainty.turned = take_turned(arena, net.layers[1].n_in, net.tile);
  return s;
}

// Of method "slices".
struct BlockSlices {
  uint8_t* bytes;  // the spikes of a block
  SliceScratch scratch;
  Certainty of_steps;  // of one sample
  BlockCertainty certainty;
};

BlockSlices take_block_slices(Arena& arena, const NetworkView& net) {
  int64_t most = 0, most_inputs = 0, most_outputs = 0;
  for (int64_t l = 0; l < net.n_layers; ++l) {
    const SliceView* slices = net.layers[l].slices;
    if (slices && slices->input_tiles > most) most = slices->input_tiles;
    if (slices && slices->in_doubt) {
      most_inputs = net.layers[l].n_in > most_inputs ? net.layers[l].n_in : most_inputs;
      most_outputs = net.layers[l].n_out > most_outputs ? net.layers[l].n_out : most_outputs;
    }
  }
  if (most == 0) return {};
  BlockSlices s{};
  s.bytes = arena.take<uint8_t>(net.tile * most * kSliceBytes);
  s.scratch = take_slices(arena, net.tile);
  if (most_inputs > 0) {
    s.of_steps = take_certainty(arena, net.layers[1], net.tile);
    s.certainty = take_block_certainty(arena, most_inputs, most_outputs, net.tile);
  }
  return s;
}

// Weights that do not stay in a core's own cache are fetched ahead; the block's other samples then find them there.
// Where they still are in the cache of all cores that costs 3 % of one sample, where they are not it saves 40 %.
constexpr int64_t kFarFloats = 1 << 17;
inline bool is_far(const LayerView& layer) { return layer.n_in * layer.padded > kFarFloats; }

// A panel's currents over a tile of steps, and a row that nobody reads: of one sample; or, where prefix sums of far
// weights are made for all samples in turn, of each.
struct Currents {
  float* first;
  int64_t apart;
  float* of(int64_t sample) const { return first + sample * apart; }
};
Currents take_currents(Arena& arena, const NetworkView& net) {
  const int64_t floats = (net.tile + 1) * kPanel;
  if (!sums_of(net) || !is_far(net.layers[1])) return {arena.take<float>(floats), 0};
  return {arena.take<float>(net.block * floats), floats};
}

SumsScratch take_sums(Arena& arena, const NetworkView& net) {
  if (!sums_of(net)) return {};
  return take_sums(arena, net.layers[0].n_out, net.layers[0].padded, net.tile);
}

DoubtScratch take_doubt(Arena& arena, const NetworkView& net) {
  if (!in_doubt(net)) return {};
  return take_doubt(arena, net.layers[0], net.tile);
}

TurnedSpikes take_turned(Arena& arena, const NetworkView& net) {
  const LayerView& last = net.layers[net.n_layers - 1];
  return !last.fires && last.by_output ? take_turned(arena, last.n_in, net.tile) : TurnedSpikes{};
}

int64_t layers_scratch_bytes(const NetworkView& net) {
  Arena arena{nullptr};
  const Sizes sizes(net);
  for (int64_t s = 0; s < net.block; ++s) take_sample(arena, net, sizes);
  arena.take<SampleState>(net.block);
  take_block_slices(arena, net);
  take_currents(arena, net);
  take_sums(arena, net);
  take_doubt(arena, net);
  take_turned(arena, net);
  return arena.used;
}

void start_sample(const NetworkView& net, const Sizes& sizes, const Request& request, int64_t row, SampleState& s) {
  write_features(net, request.observations + row * net.n_in, s.encoded);
  for (int64_t j = 0; j < sizes.features; ++j) s.next_spike[j] = 1.0f;
  int64_t at = 0;
  for (int64_t l = 0; l < net.n_layers; ++l) {
    __builtin_memcpy(s.mem + at, net.layers[l].initial, static_cast<size_t>(net.layers[l].padded) * sizeof(float));
    at += net.layers[l].padded;
  }
  __builtin_memset(s.syn, 0, static_cast<size_t>(sizes.padded_sum) * sizeof(float));
  __builtin_memset(s.total, 0, static_cast<size_t>(sizes.last_padded) * sizeof(float));
  if (net.counted) __builtin_memset(s.counts, 0, static_cast<size_t>(counted_inputs(net)) * sizeof(float));
  *s.answered = false;
}

// The encoded input's spikes of steps t0 .. t0 + steps - 1, as the first layer takes them.
void encode_tile(const NetworkView& net, const Request& request, int64_t row, int64_t t0, int64_t steps,
                 SampleState& s) {
  const int64_t features = net.layers[0].n_in, stride = bits_stride((features + kPanel - 1) / kPanel);
  const uint64_t sample = request.first_sample + static_cast<uint64_t>(row);
  float* counts = request.input_counts ? request.input_counts + row * features : nullptr;
  for (int64_t t = 0; t < steps; ++t) {
    const int64_t now = t0 + t;
    PanelBits* const bits = s.spike_bits + t * stride;
    __builtin_memset(bits, 0, static_cast<size_t>(stride) * sizeof(PanelBits));
    const auto spike = [&](int64_t j) {
      bits[j / kPanel] = static_cast<PanelBits>(bits[j / kPanel] | PanelBits{1} << (j % kPanel));
      if (counts) counts[j] += 1.0f;
    };
    if (net.encoding == static_cast<int>(Encoding::poisson)) {
      for (int64_t quad = 0; 4 * quad < features; ++quad) {
        const PhiloxBlock random =
            random_bits(request.seed, sample, static_cast<uint32_t>(now), static_cast<uint32_t>(quad));
        for (int64_t j = 4 * quad; j < 4 * quad + 4 && j < features; ++j) {
          if (poisson_spike(s.encoded[j], random.word[j % 4])) spike(j);
        }
      }
    } else {
      for (int64_t j = 0; j < features; ++j) {
        if (equidistant_spike(s.encoded[j], static_cast<float>(now), s.next_spike[j])) spike(j);
      }
    }
  }
  list_spikes(s.spike_bits, stride, features, steps, quickest_write_row(net.packs_bytes), s.lists);
}

// From a layer's spike bits: counts, records and the first spike.
void collect_spikes(const NetworkView& net, const Request& request, int64_t l, int64_t row, int64_t t0, int64_t steps,
                    SampleState& s) {
  const LayerView& layer = net.layers[l];
  const bool last = l == net.n_layers - 1, count = last && net.decoding == static_cast<int>(Decoding::spikes);
  if (!request.spike_counts && !request.spikes && !last) return;
  const int64_t stride = bits_stride(layer.panels), words = (layer.n_out + 63) / 64;
  float* const counts = request.spike_counts ? request.spike_counts[l] + row * layer.n_out : nullptr;
  float* const output = last ? request.output + row * layer.n_out : nullptr;  // zeroed at the start
  for (int64_t t = 0; t < steps; ++t) {
    float* record = nullptr;
    if (request.spikes) {
      record = request.spikes[l] + ((t0 + t) * request.batch + row) * layer.n_out;
      __builtin_memset(record, 0, static_cast<size_t>(layer.n_out) * sizeof(float));
    }
    const bool decide = last && (count || !*s.answered);  // of the first spikes there is one each
    for (int64_t w = 0; w < words; ++w) {
      uint16_t ids[64 + kAtOnce];
      const uint64_t word = row_word(s.spike_bits + t * stride, w);
      const int64_t n = write_ids(w == words - 1 ? word & used_bits(layer.n_out) : word, 0, ids);
      for (int64_t i = 0; i < n; ++i) {
        const int64_t place = w * 64 + ids[i], j = takes_runs(s, l + 1) ? s.runs.order[place] : place;
        if (counts) counts[j] += 1.0f;
        if (record) record[j] = 1.0f;
        if (decide) output[j] += 1.0f;
      }
      if (decide && n > 0) *s.answered = true;
    }
  }
}

// Clock cycles, measured on Xeons with AMX: adding a row of weights to a vector of currents, and multiplying two tiles.
// A product takes 16 by itself; 30 with the loads of its tiles and its share of the neurons' steps.
constexpr int64_t kClocksPerRow = 1, kClocksPerProduct = 30;

inline int64_t slices_clocks(const SliceView& slices, int64_t steps) {
  return slices.output_tiles * slices.input_tiles * slices.slices * steps * kClocksPerProduct;
}

// Whether the second layer is cheaper by prefix sums, of a sample whose first layer's current is there. `others`: clock
// cycles of another way than by events, or 0.
inline bool sums_pay(const NetworkView& net, const SampleState& s, float others) {
  if (net.always_sums) return true;
  const auto vectors = static_cast<float>(net.layers[1].padded / Vec::lanes * kClocksPerRow);
  const SumsCost cost = sums_cost(s.constant, net.layers[0].padded, net.threshold, net.timesteps, vectors);
  const float doubts = in_doubt(net) ? doubts_cost(cost, vectors, net.timesteps) : 0.0f;
  return cost.sums + doubts < cost.spikes && (others == 0.0f || cost.sums * vectors < others);
}

// Sorts the first layer's neurons of the samples for which that pays; of a block that could go by slices, of all or of
// none.
inline void sort_neurons(const NetworkView& net, const Request& request, SampleState* samples, int64_t count,
                         const SumsScratch& scratch) {
  if (in_doubt(net) && request.potentials) return;  // those are the canonical ones as well
  const SliceView* const slices = kHasMatrixUnit ? net.layers[1].slices : nullptr;
  const float others =
      slices ? static_cast<float>(slices_clocks(*slices, net.timesteps)) / static_cast<float>(count) : 0.0f;
  bool all = true;
  for (int64_t i = 0; i < count; ++i) {
    samples[i].sorted = sums_pay(net, samples[i], others);
    all = all && samples[i].sorted;
  }
  for (int64_t i = 0; i < count; ++i) {
    SampleState& s = samples[i];
    s.sorted = s.sorted && (all || !slices);
    if (s.sorted) sort_by_current(s.constant, net.layers[0].n_out, net.threshold, s.runs, scratch);
  }
}

// Puts the recorded potentials of a first layer whose neurons were sorted into the neurons' own order.
inline void put_back(const Request& request, int64_t n, int64_t row, int64_t t0, int64_t steps, const SampleState& s,
                     float* scratch) {
  for (int64_t t = 0; t < steps; ++t) {
    float* const record = request.potentials[0] + ((t0 + t) * request.batch + row) * n;
    __builtin_memcpy(scratch, record, static_cast<size_t>(n) * sizeof(float));
    for (int64_t i = 0; i < n; ++i) record[s.runs.order[i]] = scratch[i];
  }
}

// Whether layer l of the samples has so many input spikes, which are in their spike bits.
bool spikes_reach(const NetworkView& net, int64_t l, const SampleState* samples, int64_t count, int64_t steps,
                  int64_t enough) {
  const int64_t words = bits_stride(net.layers[l - 1].panels) / kPanelsPerWord;
  const uint64_t last_bits = used_bits(net.layers[l - 1].n_out);
  // Every fourth step tells enough; not the first one, in which little has fired yet.
  constexpr int64_t kEvery = 4;
  const int64_t begin = steps < kEvery ? steps - 1 : kEvery / 2, counted = (steps - begin + kEvery - 1) / kEvery;
  int64_t spikes = 0;
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t t = begin; t < steps; t += kEvery) {
      const char* row = reinterpret_cast<const char*>(samples[i].spike_bits) + t * words * 8;
      for (int64_t w = 0; w + 1 < words; ++w) spikes += __builtin_popcountll(row_word(row, w));
      spikes += __builtin_popcountll(row_word(row, words - 1) & last_bits);
    }
    if (spikes * steps >= enough * counted) return true;
  }
  return false;
}

// Whether layer l is cheaper by slices.
bool slices_pay(const NetworkView& net, const Request& request, int64_t l, const SampleState* samples, int64_t count,
                int64_t steps) {
  const SliceView* slices = net.layers[l].slices;
  if (!kHasTiles || !slices || (slices->in_doubt && request.potentials)) return false;
  if (!kHasMatrixUnit || net.always_slices) return net.always_slices;
  const int64_t vectors = net.layers[l].padded / Vec::lanes;
  int64_t clocks = slices_clocks(*slices, steps);
  if (slices->in_doubt) clocks += clocks / 2;  // to make spikes certain, neurons that run again included
  return spikes_reach(net, l, samples, count, steps, clocks / (kClocksPerRow * vectors));
}

// Whether it, which only accumulates, is cheaper with a step in every lane.
bool step_lanes_pay(const NetworkView& net, int64_t l, const SampleState* samples, int64_t count, int64_t steps) {
  const LayerView& layer = net.layers[l];
  if (!kHasStepLanes || layer.fires || !layer.by_output) return false;
  for (int64_t i = 0; i < count; ++i) {
    if (takes_runs(samples[i], l)) return false;
  }
  const int64_t enough = count * step_lanes_clocks(layer.n_in, layer.n_out, steps) / kClocksPerListedSpike;
  return spikes_reach(net, l, samples, count, steps, enough);
}

void write_bytes(const NetworkView& net, int64_t l, const SampleState* samples, int64_t count, int64_t steps,
                 uint8_t* bytes) {
  const int64_t tiles = net.layers[l].slices->input_tiles, stride = bits_stride(net.layers[l - 1].panels);
  if (count < kSliceRows) __builtin_memset(bytes, 0, static_cast<size_t>(steps * tiles * kSliceBytes));
  for (int64_t t = 0; t < steps; ++t) {
    for (int64_t k = 0; k < tiles; ++k) {
      for (int64_t i = 0; i < count; ++i) {
        // Past the last input it has bits that nobody wrote; they meet digits of zero.
        const uint64_t word = row_word(samples[i].spike_bits + t * stride, k);
        expand_bits(word, bytes + ((t * tiles + k) * kSliceRows + i) * kSliceInputs);
      }
    }
  }
}

bool run_layer_by_slices(const NetworkView& net, const Request& request, int64_t l, int64_t offset, int64_t first,
                         int64_t count, int64_t t0, int64_t steps, SampleState* samples, const BlockSlices& slices,
                         const Interrupt& interrupt) {
  const LayerView& layer = net.layers[l];
  const bool mean = l == net.n_layers - 1 && net.decoding == static_cast<int>(Decoding::mean_potential);
  SliceScan scan{};
  scan.slices = layer.slices;
  scan.bytes = slices.bytes;
  scan.count = count;
  scan.steps = steps;
  scan.n_out = layer.n_out;
  scan.padded = layer.padded;
  scan.bits_stride = bits_stride(layer.panels) * kPanelBytes;
  scan.potentials_stride = request.batch * layer.n_out;
  for (int64_t i = 0; i < count; ++i) {
    const SampleState& s = samples[i];
    scan.mem[i] = s.mem + offset;
    scan.syn[i] = s.syn + offset;
    scan.total[i] = mean ? s.total : nullptr;
    scan.spike_bits[i] = reinterpret_cast<char*>(s.spike_bits);
    scan.potentials[i] =
        request.potentials ? request.potentials[l] + (t0 * request.batch + first + i) * layer.n_out : nullptr;
  }
  scan.certainty = layer.slices->in_doubt ? &slices.certainty : nullptr;
  bool go_on = true;
  with_rule(net, layer.fires, [&](auto rule) {
    using Rule = decltype(rule);
    // No tiles are in use while we poll: a signal handler may want them as well.
    for (int64_t j = 0; j < layer.slices->output_tiles && go_on;) {
      j += layer.slices->slices == 2 ? scan_slices<Rule, 2>(scan, slices.scratch, net, layer, j)
                                     : scan_slices<Rule, 3>(scan, slices.scratch, net, layer, j);
      go_on = !interrupt.poll(interrupt.context);
    }
  });
  return go_on;
}

constexpr int64_t kStepWork = 64;       // of lists and records, as much as so many weights
constexpr int64_t kInputsPerSpike = 8;  // about

// Currents of a panel of the second layer for those of some samples that take runs. Of far weights, all samples take a
// few outputs before the next ones, whose rows would push theirs out of the cache.
__attribute__((noinline)) void runs_currents(const LayerView& layer, int64_t panel, const SampleState* samples,
                                             int64_t count, int64_t steps, bool far, const SumsScratch& sums,
                                             const Currents& currents) {
  int64_t takers = 0;
  for (int64_t i = 0; i < count; ++i) takers += takes_runs(samples[i], 1);
  const int64_t begin = panel * kPanel, left = layer.padded - begin, end = begin + (left < kPanel ? left : kPanel);
  for (int64_t output = begin, width; output < end; output += width) {
    width = sum_width(layer, output);
    FetchAhead fetch{0, far ? takers : 0};
    for (int64_t i = 0; i < count; ++i) {
      if (!takes_runs(samples[i], 1)) continue;
      float* const to = currents.of(i) + (output - begin);
      if (width == kSumRow) {
        run_currents<kSumVectors>(layer, output, samples[i].runs, steps, fetch, sums, to);
      } else {
        run_currents<1>(layer, output, samples[i].runs, steps, fetch, sums, to);
      }
      ++fetch.part;
    }
  }
}

// And of one sample, if they are not there yet. Returns whether its neurons have run too: those do here whose spikes
// have to be made certain. Not a part of run_layer, which is compiled for every rule.
__attribute__((noinline)) bool sample_currents(const NetworkView& net, int64_t l, int64_t panel, const SampleState& s,
                                               float* mem, int64_t steps, bool prefetch, const SumsScratch& sums,
                                               float* currents) {
  const LayerView& layer = net.layers[l];
  if (!takes_runs(s, l)) {
    panel_event_currents(layer, panel, s.lists, steps, prefetch, currents);
    return false;
  }
  if (!is_far(layer)) runs_currents(layer, panel, &s, 1, steps, false, sums, {currents, 0});
  if (in_doubt(net)) scan_certain(net, panel, currents, mem, s.spike_bits, steps, s.certainty);
  return in_doubt(net);
}

bool run_layer(const NetworkView& net, const Request& request, int64_t l, int64_t offset, int64_t first, int64_t count,
               int64_t t0, int64_t steps, SampleState* samples, const Currents& currents, const SumsScratch& sums,
               Polls& polls) {
  const LayerView& layer = net.layers[l];
  const bool constant = l == 0 && net.encoding == static_cast<int>(Encoding::constant);
  const bool mean = l == net.n_layers - 1 && net.decoding == static_cast<int>(Decoding::mean_potential);
  const bool far = is_far(layer);
  bool go_on = true;
  with_rule(net, layer.fires, [&](auto rule) {
    using Rule = decltype(rule);
    // Two panels' chains of steps hide each other's latency; currents that change are there for one at a time only.
    constexpr bool kPairs = Rule::fires && !Rule::has_synapse;
    for (int64_t p = 0, width; p < layer.panels && go_on; p += width > kPanel ? 2 : 1) {
      const int64_t begin = p * kPanel,
                    most = kPairs && constant && layer.padded - begin >= 2 * kPanel ? 2 * kPanel : kPanel;
      width = layer.padded - begin < most ? layer.padded - begin : most;
      if (l == 1 && layer.sums && far) runs_currents(layer, p, samples, count, steps, far, sums, currents);
      for (int64_t i = 0; i < count && go_on; ++i) {
        SampleState& s = samples[i];
        Scan scan;
        if (!constant && sample_currents(net, l, p, s, s.mem + offset, steps, far && i == 0, sums, currents.of(i))) {
          go_on = !polls.stop(steps * (kStepWork + width * (1 + layer.n_in / kInputsPerSpike)));
          continue;
        }
        scan.current = constant ? s.constant + begin : currents.of(i);
        scan.current_stride = constant ? 0 : kPanel;
        scan.mem = s.mem + offset + begin;
        scan.syn = s.syn + offset + begin;
        scan.total = mean ? s.total + begin : nullptr;
        scan.spike_bits = reinterpret_cast<char*>(s.spike_bits + p);
        scan.stride = bits_stride(layer.panels) * kPanelBytes;
        scan.valid = layer.n_out - begin < width ? layer.n_out - begin : width;
        scan.potentials_stride = request.batch * layer.n_out;
        scan.potentials = request.potentials
                              ? request.potentials[l] + (t0 * request.batch + first + i) * layer.n_out + begin
                              : nullptr;
        scan.steps = steps;
        if constexpr (kPairs) {
          if (width > kPanel) scan_panels<Rule, 2 * kPanelVectors>(scan, vector_constants(net));
        }
        if (width <= kPanel) scan_sample<Rule>(net, scan, width / Vec::lanes);
        go_on = !polls.stop(steps * (kStepWork + width * (constant ? 1 : 1 + layer.n_in / kInputsPerSpike)));
      }
    }
  });
  return go_on;
}

bool run_layers(const NetworkView& net, const Request& request, int64_t first, int64_t count, char* scratch,
                const Interrupt& interrupt) {
  Arena arena{scratch};
  Polls polls{interrupt};
  const Sizes sizes(net);
  SampleState* samples = arena.take<SampleState>(net.block);
  const LayerView& last = net.layers[net.n_layers - 1];
  for (int64_t i = 0; i < count; ++i) {
    const int64_t row = first + i;
    samples[i] = take_sample(arena, net, sizes);
    start_sample(net, sizes, request, row, samples[i]);
    if (last.fires)
      __builtin_memset(request.output + row * last.n_out, 0, static_cast<size_t>(last.n_out) * sizeof(float));
    if (request.input_counts) {
      __builtin_memset(request.input_counts + row * sizes.features, 0,
                       static_cast<size_t>(sizes.features) * sizeof(float));
    }
    for (int64_t l = 0; request.spike_counts && l < net.n_layers && net.layers[l].fires; ++l) {
      const int64_t n = net.layers[l].n_out;
      __builtin_memset(request.spike_counts[l] + row * n, 0, static_cast<size_t>(n) * sizeof(float));
    }
  }
  const BlockSlices slices = take_block_slices(arena, net);
  const Currents currents = take_currents(arena, net);
  const SumsScratch sums = take_sums(arena, net);
  const DoubtScratch doubt = take_doubt(arena, net);
  TurnedSpikes turned = take_turned(arena, net);
  if (net.encoding == static_cast<int>(Encoding::constant)) {
    const float* inputs[kMaxBlock];
    float* constants[kMaxBlock];
    for (int64_t i = 0; i < count; ++i) {
      inputs[i] = samples[i].encoded;
      constants[i] = samples[i].constant;
    }
    for (int64_t p = 0; p < net.layers[0].panels; ++p) {
      constant_currents(net.layers[0], inputs, constants, count, p, p + 1);
      if (polls.stop(count * net.layers[0].n_in * kPanel)) return false;
    }
    if (sums_of(net)) sort_neurons(net, request, samples, count, sums);
  }
  const bool counted = net.counted && !request.potentials,
             mean = net.decoding == static_cast<int>(Decoding::mean_potential);
  const int64_t layers = counted ? net.n_layers - 1 : net.n_layers;  // that run step by step
  for (int64_t t0 = 0; t0 < net.timesteps; t0 += net.tile) {
    const int64_t steps = net.timesteps - t0 < net.tile ? net.timesteps - t0 : net.tile;
    if (net.encoding != static_cast<int>(Encoding::constant)) {
      for (int64_t i = 0; i < count; ++i) {
        encode_tile(net, request, first + i, t0, steps, samples[i]);
        if (polls.stop(steps * kStepWork * (1 + sizes.features))) return false;
      }
    }
    int64_t offset = 0;
    bool sliced = false, doubtful = false;
    for (int64_t l = 0; l < layers; ++l) {
      const bool finished =
          kHasTiles && sliced
              ? run_layer_by_slices(net, request, l, offset, first, count, t0, steps, samples, slices, interrupt)
              : run_layer(net, request, l, offset, first, count, t0, steps, samples, currents, sums, polls);
      if (!finished) return false;
      offset += net.layers[l].padded;
      if (!net.layers[l].fires) continue;
      const bool was_sliced = sliced;
      for (int64_t i = 0; i < count && was_sliced && doubtful; ++i) {  // before anything reads these spikes
        const BlockCertainty& c = slices.certainty;
        const int64_t settled =
            settle_in_steps(net, net.layers[l], c.doubts + i * c.tiles, c.turned[i], steps, samples[i].spike_bits);
        if (polls.stop(settled * net.layers[l].n_in * (1 + steps / kInputsPerSpike))) return false;
      }
      for (int64_t i = 0; i < count && l == 1 && in_doubt(net); ++i) {  // before anything reads these spikes
        const SampleState& s = samples[i];
        if (!s.sorted) continue;
        const int64_t settled =
            settle_doubts(net, s.certainty, s.constant, steps, s.runs, s.lists, doubt, currents.first, s.spike_bits);
        if (polls.stop(settled * net.layers[l].n_in * (1 + steps / kInputsPerSpike))) return false;
      }
      const bool in_lanes =
          !counted && !request.potentials && l + 2 == net.n_layers && step_lanes_pay(net, l + 1, samples, count, steps);
      sliced = l + 1 < layers && !in_lanes && !takes_runs(samples[0], l + 1) &&
               slices_pay(net, request, l + 1, samples, count, steps);
      if (kHasTiles && sliced) {
        write_bytes(net, l + 1, samples, count, steps, slices.bytes);
        doubtful = net.layers[l + 1].slices->in_doubt;
        for (int64_t i = 0; i < count && doubtful; ++i) {
          const int64_t stride = bits_stride(net.layers[l].panels);
          start_certainty(slices.certainty, i, samples[i].spike_bits, stride, net.layers[l].n_out, steps,
                          slices.of_steps);
        }
      }
      for (int64_t i = 0; i < count; ++i) {
        SampleState& s = samples[i];
        collect_spikes(net, request, l, first + i, t0, steps, s);
        const int64_t n = net.layers[l].n_out, stride = bits_stride(net.layers[l].panels);
        if (takes_runs(s, l + 1) && request.potentials) put_back(request, n, first + i, t0, steps, s, sums.unsorted);
        if (counted && l + 1 == layers) {
          count_tile(s.spike_bits, stride, n, steps, net.timesteps - t0 - steps, mean, s.counts);
        }
        if (in_lanes) {
          turn_spikes(s.spike_bits, stride, n, steps, turned);
          accumulate_in_steps(last, turned, steps, s.mem + offset, mean ? s.total : nullptr);
        }
        if (l + 1 == layers || sliced || in_lanes) continue;
        if (takes_runs(s, l + 1)) {
          list_runs(s.spike_bits, stride, n, steps, quickest_write_rows(net.packs_bytes), s.runs, sums);
          if (in_doubt(net)) {
            bound_steps(s.spike_bits, stride, n, steps, s.certainty);
            if (kHasStepLanes) {
              turn_sorted(s.spike_bits, stride, n, steps, s.runs.order, doubt.turned, s.certainty.turned);
            }
          }
        } else {
          list_spikes(s.spike_bits, stride, n, steps, quickest_write_row(net.packs_bytes), s.lists);
        }
      }
      if (in_lanes) break;
    }
  }
  for (int64_t i = 0; i < count && !last.fires; ++i) {
    float* output = request.output + (first + i) * last.n_out;
    if (counted) {
      weigh_counts(last, samples[i].counts, net.timesteps, mean, output);
      continue;
    }
    const float* mem = samples[i].mem + sizes.padded_sum - last.padded;
    for (int64_t j = 0; j < last.n_out; ++j) {
      output[j] = mean ? samples[i].total[j] / static_cast<float>(net.timesteps) : mem[j];
    }
  }
  return true;
}

}  // namespace
}  // namespace snnfast
