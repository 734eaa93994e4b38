// SPDX-License-Identifier: Apache-2.0
// One layer of neurons by itself, its current given: elementwise over (batch x neurons), all time steps in one call.
#pragma once

#include "cpu/panels.h"

namespace snnfast {
namespace {

// Elements that run through a stretch of time before the next ones follow: their membranes stay in the first cache.
constexpr int64_t kTileWidth = 1024;
constexpr int64_t kStepsPerPoll = 64;

template <class Rule, class V>
SNNFAST_INLINE V element_step(V& mem, V& syn, V current, const NeuronConstants<V>& constants, V one) {
  return keep_where(Rule::step(mem, syn, current, constants), one);
}

template <bool Delayed>
bool layer_over_time(const float* current, float* membrane, float* spikes, int64_t steps, int64_t width, int64_t first,
                     int64_t last, float threshold, const Interrupt& interrupt) {
  using Rule = NeuronRule<Delayed, Reset::subtraction, false, false>;
  constexpr int L = Vec::lanes;
  const NeuronConstants<Vec> constants{broadcast(0.0f), broadcast(1.0f), broadcast(threshold)};
  const NeuronConstants<float> scalar_constants{0.0f, 1.0f, threshold};
  const Vec one = broadcast(1.0f);
  float syn[kTileWidth];
  for (int64_t begin = first; begin < last; begin += kTileWidth) {
    const int64_t n = last - begin < kTileWidth ? last - begin : kTileWidth;
    float* mem = membrane + begin;
    __builtin_memset(syn, 0, sizeof syn);
    for (int64_t t = 0; t < steps; ++t) {
      const float* h = current + t * width + begin;
      float* out = spikes + t * width + begin;
      int64_t i = 0;
      for (; i + L <= n; i += L) {
        Vec m = load(mem + i), s = load(syn + i);
        store(out + i, element_step<Rule>(m, s, load(h + i), constants, one));
        store(mem + i, m);
        if constexpr (Rule::has_synapse) store(syn + i, s);
      }
      for (; i < n; ++i) out[i] = element_step<Rule>(mem[i], syn[i], h[i], scalar_constants, 1.0f);
      if (t % kStepsPerPoll == 0 && interrupt.poll(interrupt.context)) return false;
    }
  }
  return true;
}

bool if_forward(const float* current, float* membrane, float* spikes, int64_t steps, int64_t width, int64_t first,
                int64_t last, float threshold, bool delayed, const Interrupt& interrupt) {
  return delayed ? layer_over_time<true>(current, membrane, spikes, steps, width, first, last, threshold, interrupt)
                 : layer_over_time<false>(current, membrane, spikes, steps, width, first, last, threshold, interrupt);
}

}  // namespace
}  // namespace snnfast
