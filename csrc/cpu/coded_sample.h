// SPDX-License-Identifier: Apache-2.0
// What a sample carries through a network with a code: state, what the last layer to fire has sent, and outputs.
#pragma once

#include "core/modes.h"
#include "cpu/arena.h"
#include "cpu/code_view.h"
#include "cpu/constant_current.h"
#include "cpu/features.h"
#include "cpu/panels.h"
#include "cpu/spike_ids.h"

namespace snnfast {
namespace {

// Samples that run side by side, step by step; those that stop early leave.
constexpr int64_t kSideBySide = 16;

// A block of weights, see coded_arrivals.h: of so many inputs, for a panel of outputs; 32 KB.
constexpr int64_t kBlockInputs = 32768 / (kPanel * static_cast<int64_t>(sizeof(float)));
static_assert(kBlockInputs % 64 == 0, "lists are written by words");

struct CodedSample {
  int64_t row;      // in the batch
  float* features;  // (features), or the observation itself
  float* constant;  // (padded) current of the first layer
  float* state;     // of all hidden layers: membranes (of the lowest copies); digits: drives
  float* sent;      // the same: net spike counts; digits: what was sent
  float* values;    // (widest) what the layer that fired last has sent: what the next one adds
  float* next;      // (widest) what the layer that fires now sends
  uint32_t* ids;    // the neurons whose value is not zero, ascending
  int64_t n_ids;
  int32_t* cuts;    // how many of them come before each block of kBlockInputs neurons
  float* arriving;  // (widest) what a layer receives from them
  float* to;        // the row where that goes
  float* current;   // (widest), of a turn
  float* received;  // (widest) what a layer has sent in its turn so far, in smallest spikes
  float* output;    // (padded last), all three
  float* weighted;
  float* running;
  float terms;   // of the first layer, for a certificate of digits: see first_terms
  bool* beyond;  // (hidden layers): of digits, whether a drive is above 1 now, or no number
};

// The most that the first layer's terms add up to, whatever their signs: what they may round grows with it.
__attribute__((noinline)) inline float first_terms(const NetworkView& net, const float* features) {
  float sum = 0.0f;
  for (int64_t k = 0; k < net.layers[0].n_in; ++k) {
    sum = sum + net.code->largest[k] * __builtin_fabsf(features[k]);
  }
  return sum;
}

// What the drives of hidden layer l may reach in the original network, for a certificate to hold.
inline float most_drive(const NetworkView& net, int64_t l) { return l + 2 < net.n_layers ? 1.0f : kMostActivation; }

// Whether digits are binary, and guards see to it that none is sent too soon.
inline bool is_guarded(const NetworkView& net) { return net.n_layers > 1 && net.code->layers[0].guards; }

struct CodedSizes {
  int64_t widest = 0, last_padded;
  explicit CodedSizes(const NetworkView& net) : last_padded(net.layers[net.n_layers - 1].padded) {
    for (int64_t l = 0; l < net.n_layers; ++l) {
      if (net.layers[l].padded > widest) widest = net.layers[l].padded;
    }
  }
};

inline CodedSample take_coded(Arena& arena, const NetworkView& net) {
  const CodedSizes sizes(net);
  CodedSample s{};
  s.features = features_are_observations(net) ? nullptr : arena.take<float>(net.layers[0].n_in);
  s.constant = arena.take<float>(net.layers[0].padded);
  s.state = arena.take<float>(net.code->state);
  s.sent = arena.take<float>(net.code->state);
  s.values = arena.take<float>(sizes.widest);
  s.next = arena.take<float>(sizes.widest);
  s.ids = arena.take<uint32_t>(sizes.widest + kAtOnce);
  s.cuts = arena.take<int32_t>(sizes.widest / kBlockInputs + 1);
  s.arriving = arena.take<float>(sizes.widest);
  s.current = arena.take<float>(sizes.widest);
  s.received = arena.take<float>(sizes.widest);
  s.output = arena.take<float>(sizes.last_padded);
  s.weighted = arena.take<float>(sizes.last_padded);
  s.running = arena.take<float>(sizes.last_padded);
  s.beyond = arena.take<bool>(net.n_layers);
  return s;
}

// Call f(vectors, first output, weights) for every panel of a layer, its vectors as a compile-time constant.
template <class F>
SNNFAST_INLINE void for_panels(const LayerView& layer, F&& f) {
  for (int64_t p = 0; p < layer.panels; ++p) {
    const int64_t begin = p * kPanel;
    with_vectors(panel_vectors(layer, p), [&](auto vectors) { f(vectors, begin, layer.weights + begin * layer.n_in); });
  }
}

// What the layer now fired has sent becomes what the next one takes: the neurons whose value is not zero are listed.
inline void send(const LayerView& layer, CodedSample& s) {
  constexpr int L = Vec::lanes;
  float* const sent = s.next;
  s.next = s.values;
  s.values = sent;
  const Vec zero = broadcast(0.0f);
  int64_t n = 0;
  for (int64_t j = 0; j < layer.n_out; j += 64) {
    if (j % kBlockInputs == 0) s.cuts[j / kBlockInputs] = static_cast<int32_t>(n);
    uint64_t word = 0;
    for (int64_t k = 0; k < 64 && j + k < layer.padded; k += L) {
      const Vec value = load(s.values + j + k);
      word |= static_cast<uint64_t>(bits(above(value, zero)) | bits(above(zero, value))) << k;
    }
    if (layer.n_out - j < 64) word &= (uint64_t{1} << (layer.n_out - j)) - 1;
    n += write_ids(word, static_cast<uint32_t>(j), s.ids + n);
  }
  s.n_ids = n;
}

// Where a layer's spikes and potentials of a step are recorded; null: not wanted.
struct CodedRecord {
  float *counts, *spikes, *potentials;
};

inline CodedRecord record_of(const NetworkView& net, const Request& request, int64_t l, int64_t t, int64_t row) {
  const int64_t n = net.layers[l].n_out, at = (t * request.batch + row) * n;
  const bool hidden = l + 1 < net.n_layers;
  return {hidden && request.spike_counts ? request.spike_counts[l] + row * n : nullptr,
          hidden && request.spikes ? request.spikes[l] + at : nullptr,
          request.potentials ? request.potentials[l] + at : nullptr};
}

// Write the lanes of a panel that are neurons.
SNNFAST_INLINE void write_lanes(float* to, int64_t begin, int64_t n_out, const Vec* values, int vectors) {
  constexpr int L = Vec::lanes;
  float copy[kPanel];
  for (int v = 0; v < vectors; ++v) store(copy + v * L, values[v]);
  const int64_t n = n_out - begin < vectors * L ? n_out - begin : vectors * L;
  __builtin_memcpy(to + begin, copy, static_cast<size_t>(n) * sizeof(float));
}

SNNFAST_INLINE void add_lanes(float* to, int64_t begin, int64_t n_out, const Vec* values, int vectors) {
  constexpr int L = Vec::lanes;
  float copy[kPanel];
  for (int v = 0; v < vectors; ++v) store(copy + v * L, values[v]);
  const int64_t n = n_out - begin < vectors * L ? n_out - begin : vectors * L;
  for (int64_t j = 0; j < n; ++j) to[begin + j] += copy[j];
}

}  // namespace
}  // namespace snnfast
