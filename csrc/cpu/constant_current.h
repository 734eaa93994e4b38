// SPDX-License-Identifier: Apache-2.0
// The first layer's current under constant encoding: numbers times weights, once per sample for all time steps.
// Canonical: inputs ascending, product and sum rounded separately, bias last.
#pragma once

#include "cpu/kernels.h"
#include "cpu/panels.h"
#include "cpu/simd.h"

namespace snnfast {
namespace {

// Samples that share a weight while it is in a register, and whose chains of additions hide each other's latency.
constexpr int kSharing = Vec::lanes == 16 ? 4 : 2;

template <int V, int S>
void panel_currents(const float* weights, const float* bias, const float* const* inputs, int64_t n_in,
                    float* const* currents, int64_t at) {
  constexpr int L = Vec::lanes;
  Vec h[S][V];
  for (int s = 0; s < S; ++s) {
    for (int v = 0; v < V; ++v) h[s][v] = broadcast(0.0f);
  }
  for (int64_t k = 0; k < n_in; ++k) {
    Vec w[V];
    for (int v = 0; v < V; ++v) w[v] = load(weights + (k * V + v) * L);
#pragma GCC unroll 4
    for (int s = 0; s < S; ++s) {
      const Vec x = broadcast(inputs[s][k]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) h[s][v] = h[s][v] + w[v] * x;
    }
  }
  for (int s = 0; s < S; ++s) {
    for (int v = 0; v < V; ++v) store(currents[s] + at + v * L, h[s][v] + load(bias + v * L));
  }
}

// Currents of `count` samples: inputs[i] (n_in) -> currents[i] (padded). Each panel of weights is read once.
void constant_currents(const LayerView& layer, const float* const* inputs, float* const* currents, int64_t count,
                       int64_t first_panel, int64_t last_panel) {
  for (int64_t p = first_panel; p < last_panel; ++p) {
    const int64_t begin = p * kPanel;
    const float *weights = layer.weights + begin * layer.n_in, *bias = layer.bias + begin;
    with_vectors(panel_vectors(layer, p), [&](auto vectors) {
      constexpr int V = decltype(vectors)::value;
      int64_t i = 0;
      for (; i + kSharing <= count; i += kSharing) {
        panel_currents<V, kSharing>(weights, bias, inputs + i, layer.n_in, currents + i, begin);
      }
      for (; i < count; ++i) panel_currents<V, 1>(weights, bias, inputs + i, layer.n_in, currents + i, begin);
    });
  }
}

}  // namespace
}  // namespace snnfast
