// SPDX-License-Identifier: Apache-2.0
// Neurons in doubt (certain_spikes.h, certain_slices.h) run again from canonical sums, with a time step in every lane.
#pragma once

#include "core/neuron.h"
#include "cpu/event_currents.h"
#include "cpu/kernels.h"
#include "cpu/layer_scan.h"
#include "cpu/simd.h"
#include "cpu/spike_ids.h"
#include "cpu/step_lanes.h"

namespace snnfast {
namespace {

// Neurons of the rule that the bounds are made for.
using CertainRule = NeuronRule<false, Reset::subtraction, false, false>;

// Up to a panel of neurons that run again.
inline void scan_again(const NetworkView& net, const float* current, int64_t current_stride, int64_t vectors,
                       float* state, PanelBits* bits, int64_t stride, int64_t steps) {
  Scan scan{};
  scan.current = current;
  scan.current_stride = current_stride;
  scan.mem = state;
  scan.spike_bits = reinterpret_cast<char*>(bits);
  scan.stride = stride * kPanelBytes;
  scan.steps = steps;
  scan_sample<CertainRule>(net, scan, vectors);
}

// The lowest bits of `bits`, as many as there are in `places`, at those places.
SNNFAST_INLINE uint64_t spread_bits(uint64_t bits, uint64_t places) {
#if defined(__BMI2__)
  return _pdep_u64(bits, places);
#else
  uint64_t spread = 0;
  for (; places; places &= places - 1, bits >>= 1) spread |= bits & 1u ? places & (~places + 1) : 0;
  return spread;
#endif
}

// Up to so many together.
constexpr int64_t kAgain = 16;

// Their currents over all steps, of each four side by side. Weights and spikes as in step_lanes.h.
inline void currents_again(const LayerView& layer, const uint32_t* neurons, int64_t count, const TurnedSpikes& turned,
                           int64_t steps, float (*currents)[kAgain], float* state) {
  static_assert(kLaneNeurons == Quad::lanes);
  alignas(64) float sums[kLaneNeurons][kMostSteps];
  for (int64_t begin = 0; begin < count; begin += kLaneNeurons) {
    const int64_t left = count - begin, here = left < kLaneNeurons ? left : kLaneNeurons;
    const float* weights[kLaneNeurons];
    alignas(16) float bias[kLaneNeurons];
    for (int64_t i = 0; i < kLaneNeurons; ++i) {
      const int64_t j = neurons[i < here ? begin + i : begin];
      weights[i] = layer.by_output + j * layer.n_in;
      bias[i] = layer.bias[j];
      state[begin + i] = layer.initial[j];
    }
    sums_in_steps(weights, here, turned, layer.n_in, steps, sums[0], kMostSteps);
    const Quad biases = load_as<Quad>(bias);
    for (int64_t t = 0; t < steps; ++t) {
      store(currents[t] + begin, quad(sums[0][t], sums[1][t], sums[2][t], sums[3][t]) + biases);
    }
  }
}

// Runs a sample's neurons in doubt again, and puts their spikes, in `bits`, where the others' are. Doubts: a bit per
// neuron, in whole words. Returns how many there were.
__attribute__((noinline, unused)) int64_t settle_in_steps(const NetworkView& net, const LayerView& layer,
                                                          const void* doubts, const TurnedSpikes& turned, int64_t steps,
                                                          PanelBits* bits) {
  constexpr int64_t kVectors = kAgain / Vec::lanes;
  static_assert(kVectors <= kPanelVectors);
  alignas(64) float currents[kMostSteps][kAgain] = {}, state[kAgain] = {};
  PanelBits again[kMostSteps];
  uint32_t neurons[kAgain];
  struct {
    int64_t word;
    uint64_t places;
    int first;  // of those neurons
  } parts[kAgain];
  int64_t count = 0, n_parts = 0, settled = 0;
  const int64_t words = (layer.n_out + 63) / 64, stride = bits_stride(layer.panels) * kPanelBytes;
  const auto settle = [&] {
    currents_again(layer, neurons, count, turned, steps, currents, state);
    scan_again(net, currents[0], kAgain, kVectors, state, again, 1, steps);
    for (int64_t p = 0; p < n_parts; ++p) {
      char* row = reinterpret_cast<char*>(bits) + 8 * parts[p].word;
      const uint64_t places = parts[p].places;
      for (int64_t t = 0; t < steps; ++t, row += stride) {
        const uint64_t word = (row_word(row, 0) & ~places) | spread_bits(again[t] >> parts[p].first, places);
        __builtin_memcpy(row, &word, sizeof word);
      }
    }
    settled += count;
    count = n_parts = 0;
  };
  for (int64_t w = 0; w < words; ++w) {
    uint64_t left = row_word(doubts, w) & (w == words - 1 ? used_bits(layer.n_out) : ~uint64_t{0});
    while (left) {
      auto& part = parts[n_parts++];
      part = {w, 0, static_cast<int>(count)};
      for (; left && count < kAgain; left &= left - 1) {
        part.places |= left & (~left + 1);
        neurons[count++] = static_cast<uint32_t>(w * 64 + __builtin_ctzll(left));
      }
      if (count == kAgain) settle();
    }
  }
  if (count > 0) settle();
  return settled;
}

}  // namespace
}  // namespace snnfast
