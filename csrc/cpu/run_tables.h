// SPDX-License-Identifier: Apache-2.0
// Method "tables": small networks, whole network step by step, everything in registers. A layer's spikes are the bits
// of one word, and that word is the address of the next layer's current: one load replaces up to 16 additions.
//
// One sample is bound by the latency of the first layer's add - compare - subtract chain; the layers behind it run in
// its shadow. Several samples are interleaved to fill that latency.
#pragma once

#include "cpu/layer_scan.h"

namespace snnfast {
namespace {

SNNFAST_INLINE void add_to(float* p, Vec a) { store(p, load(p) + a); }

constexpr int kTableVectors = static_cast<int>(kTableWidth) / Vec::lanes;

// Hidden: number of spiking layers. LastVectors: vectors of the last layer. Samples: how many are interleaved.
template <class Rule, class LastRule, int Hidden, int LastVectors, int Samples>
struct TableRun {
  static constexpr int V = kTableVectors, L = Vec::lanes;

  static void run(const NetworkView& net, const Request& request, int64_t first) {
    const NeuronConstants<Vec> constants = vector_constants(net);
    const bool mean = net.decoding == static_cast<int>(Decoding::mean_potential);
    Vec current[Samples][V], mem[Samples][Hidden][V], syn[Samples][Hidden][V];
    Vec last_mem[Samples][LastVectors], last_syn[Samples][LastVectors], total[Samples][LastVectors];
    for (int s = 0; s < Samples; ++s) {
      const LayerView& layer = net.layers[0];
      float h[V * L] = {};
      const float* x = request.observations + (first + s) * net.n_in;
      with_vectors(layer.padded / L, [&](auto count) {
        panel_current<decltype(count)::value>(layer.weights, layer.bias, x, layer.n_in, h);
      });
      for (int v = 0; v < V; ++v) current[s][v] = load(h + v * L);
      for (int l = 0; l < Hidden; ++l) {
        for (int v = 0; v < V; ++v) {
          const bool real = v * L < net.layers[l].padded;
          mem[s][l][v] = real ? load(net.layers[l].initial + v * L) : broadcast(0.0f);
          syn[s][l][v] = broadcast(0.0f);
        }
      }
      for (int v = 0; v < LastVectors; ++v) last_mem[s][v] = last_syn[s][v] = total[s][v] = broadcast(0.0f);
    }
    // Spike counts live in memory: nobody waits for them, and registers are scarce.
    const bool count = request.spike_counts != nullptr;
    float counts[Samples][Hidden][V * L] = {};
    const Vec one = broadcast(1.0f);
    const float* tables[Hidden];
    for (int l = 0; l < Hidden; ++l) tables[l] = net.tables[l + 1].entries;

    for (int64_t t = 0; t < net.timesteps; ++t) {
#pragma GCC unroll 8
      for (int s = 0; s < Samples; ++s) {
        uint64_t spikes = 0;
        for (int v = 0; v < V; ++v) {
          const auto mask = Rule::step(mem[s][0][v], syn[s][0][v], current[s][v], constants);
          spikes |= static_cast<uint64_t>(bits(mask)) << (v * L);
          if (count) add_to(counts[s][0] + v * L, keep_where(mask, one));
        }
#pragma GCC unroll 4
        for (int l = 1; l < Hidden; ++l) {
          const float* h = tables[l - 1] + spikes * (V * L);
          spikes = 0;
          for (int v = 0; v < V; ++v) {
            const auto mask = Rule::step(mem[s][l][v], syn[s][l][v], load(h + v * L), constants);
            spikes |= static_cast<uint64_t>(bits(mask)) << (v * L);
            if (count) add_to(counts[s][l] + v * L, keep_where(mask, one));
          }
        }
        const float* h = tables[Hidden - 1] + spikes * (LastVectors * L);
        for (int v = 0; v < LastVectors; ++v) {
          LastRule::step(last_mem[s][v], last_syn[s][v], load(h + v * L), constants);
          if (mean) total[s][v] = total[s][v] + last_mem[s][v];
        }
      }
    }

    const LayerView& last = net.layers[net.n_layers - 1];
    for (int s = 0; s < Samples; ++s) {
      float out[LastVectors * L];
      for (int v = 0; v < LastVectors; ++v) store(out + v * L, mean ? total[s][v] : last_mem[s][v]);
      float* output = request.output + (first + s) * last.n_out;
      for (int64_t j = 0; j < last.n_out; ++j) {
        output[j] = mean ? out[j] / static_cast<float>(net.timesteps) : out[j];
      }
      for (int l = 0; count && l < Hidden; ++l) {
        const int64_t n = net.layers[l].n_out;
        __builtin_memcpy(request.spike_counts[l] + (first + s) * n, counts[s][l],
                         static_cast<size_t>(n) * sizeof(float));
      }
    }
  }
};

// With four lanes one sample fills the registers already.
constexpr int kInterleaved = Vec::lanes == 4 ? 1 : 4;

template <class Rule, class LastRule, int Hidden, int LastVectors>
bool run_table_samples(const NetworkView& net, const Request& request, int64_t first, int64_t count,
                       const Interrupt& interrupt) {
  int64_t i = 0;
  for (; i + kInterleaved <= count; i += kInterleaved) {
    TableRun<Rule, LastRule, Hidden, LastVectors, kInterleaved>::run(net, request, first + i);
    if (interrupt.poll(interrupt.context)) return false;
  }
  if constexpr (kInterleaved > 1) {
    for (; i < count; ++i) TableRun<Rule, LastRule, Hidden, LastVectors, 1>::run(net, request, first + i);
  }
  return true;
}

template <class Rule, class LastRule>
bool run_table_depth(const NetworkView& net, const Request& request, int64_t first, int64_t count,
                     const Interrupt& interrupt) {
  const bool narrow = net.tables[net.n_layers - 1].width == Vec::lanes;
  if (net.n_layers == 2) {
    return narrow ? run_table_samples<Rule, LastRule, 1, 1>(net, request, first, count, interrupt)
                  : run_table_samples<Rule, LastRule, 1, kTableVectors>(net, request, first, count, interrupt);
  }
  return narrow ? run_table_samples<Rule, LastRule, 2, 1>(net, request, first, count, interrupt)
                : run_table_samples<Rule, LastRule, 2, kTableVectors>(net, request, first, count, interrupt);
}

template <bool Delayed, Reset reset, bool A, bool B>
NeuronRule<Delayed, Reset::none, A, B> without_reset(NeuronRule<Delayed, reset, A, B>);

bool run_tables(const NetworkView& net, const Request& request, int64_t first, int64_t count,
                const Interrupt& interrupt) {
  bool finished = true;
  with_rule(net, true, [&](auto rule) {
    using Rule = decltype(rule);
    using LastRule = decltype(without_reset(rule));
    finished = run_table_depth<Rule, LastRule>(net, request, first, count, interrupt);
  });
  return finished;
}

}  // namespace
}  // namespace snnfast
