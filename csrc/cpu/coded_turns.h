// SPDX-License-Identifier: Apache-2.0
// Codes "staged" and "radix": hidden layers take turns, each sends a whole number of smallest spikes from a complete
// current.
#pragma once

#include "cpu/coded_exit.h"
#include "cpu/coded_rate.h"

namespace snnfast {
namespace {

// The complete current of a layer, from what the layer before has sent in its turn. Row of (padded).
inline void turn_current(const NetworkView& net, int64_t l, CodedSample& s, float* current) {
  const LayerView& layer = net.layers[l];
  s.to = s.arriving;
  if (l > 0) arrive<false>(layer, false, &s, 1);
  const Arrived arrived(layer, l, s);
  for (int64_t j = 0; j < layer.padded; j += Vec::lanes) store(current + j, arrived.current(j));
}

// Steps from .. to - 1 of a turn of plain neurons with copies, under the constant current in s.current.
inline void staged_steps(const NetworkView& net, const Request& request, int64_t l, int64_t from, int64_t to,
                         CodedSample& s) {
  constexpr int L = Vec::lanes;
  const LayerView& layer = net.layers[l];
  const CodeView& code = *net.code;
  const CopiesOf copies(code);
  for_panels(layer, [&](auto vectors, int64_t begin, const float*) {
    constexpr int V = decltype(vectors)::value;
    Vec h[V], sum[V], received[V], count[V];
    for (int v = 0; v < V; ++v) {
      h[v] = load(s.current + begin + v * L);
      received[v] = load(s.received + begin + v * L);
      count[v] = broadcast(0.0f);
    }
    float* mem = s.state + code.layers[l].offset + begin;
    for (int64_t t = from; t < to; ++t) {
      for (int v = 0; v < V; ++v) sum[v] = h[v];
      step_panel<false, V>(copies, mem, nullptr, sum);
      const Vec worth = broadcast(static_cast<float>(code.ramp ? net.timesteps - t : 1));
      for (int v = 0; v < V; ++v) {
        received[v] = received[v] + sum[v] * worth;  // whole numbers: exact
        count[v] = count[v] + sum[v];
      }
      if (!request.spikes && !request.potentials) continue;
      const CodedRecord record = record_of(net, request, l, t, s.row);
      if (record.spikes) write_lanes(record.spikes, begin, layer.n_out, sum, V);
      if (record.potentials) {
        Vec first[V];
        for (int v = 0; v < V; ++v) first[v] = load(mem + v * L);
        write_lanes(record.potentials, begin, layer.n_out, first, V);
      }
    }
    for (int v = 0; v < V; ++v) store(s.received + begin + v * L, received[v]);
    const CodedRecord record = record_of(net, request, l, 0, s.row);
    if (record.counts) add_lanes(record.counts, begin, layer.n_out, count, V);
  });
}

// The numbers whose bits radix neurons send in their turn, under the current in s.current.
inline void radix_numbers(const NetworkView& net, int64_t l, CodedSample& s) {
  constexpr int L = Vec::lanes;
  const Vec zero = broadcast(0.0f), offset = broadcast(net.code->offset);
  const Vec levels = broadcast(static_cast<float>((int64_t{1} << net.timesteps) - 1));
  for (int64_t j = 0; j < net.layers[l].padded; j += L) {
    store(s.received + j, radix_number(load(s.current + j), levels, offset, zero));
  }
}

// Bits from .. to - 1 of the numbers in s.received: counted, and recorded with the membrane that doubles.
inline void note_bits(const NetworkView& net, const Request& request, int64_t l, int64_t from, int64_t to,
                      const CodedSample& s) {
  const LayerView& layer = net.layers[l];
  if (float* const counts = record_of(net, request, l, 0, s.row).counts) {
    const uint32_t bits = (uint32_t{1} << (to - from)) - 1u;
    for (int64_t j = 0; j < layer.n_out; ++j) {
      const auto number = static_cast<uint32_t>(s.received[j]);
      counts[j] += static_cast<float>(__builtin_popcount(number >> (net.timesteps - to) & bits));
    }
  }
  if (!request.spikes && !request.potentials) return;
  for (int64_t t = from; t < to; ++t) {
    const CodedRecord record = record_of(net, request, l, t, s.row);
    const auto place = static_cast<uint32_t>(net.timesteps - 1 - t);
    const float unit = static_cast<float>(uint32_t{1} << place);
    for (int64_t j = 0; j < layer.n_out; ++j) {
      const auto number = static_cast<uint32_t>(s.received[j]);
      if (record.spikes) record.spikes[j] = static_cast<float>(number >> place & 1u);
      // v = 2 (v - spike) after the step: the bits that are left, in units of half the highest one.
      const auto left = static_cast<float>(number & ((uint32_t{1} << place) - 1u));
      if (record.potentials) record.potentials[j] = 2.0f * left / unit;
    }
  }
}

// What was sent up to and including step t of a turn is handed to the next layer.
inline void hand_over(const NetworkView& net, int64_t l, int64_t t, CodedSample& s) {
  const LayerView& layer = net.layers[l];
  const auto place = static_cast<int32_t>(net.timesteps - 1 - t);
  if (net.code->kind == static_cast<int>(CodeKind::radix) && place > 0) {
    using Whole = int32_t __attribute__((vector_size(sizeof(Vec))));
    for (int64_t j = 0; j < layer.padded; j += Vec::lanes) {
      Vec x = load(s.received + j);
      x.v = __builtin_convertvector(__builtin_convertvector(x.v, Whole) >> place << place, decltype(x.v));
      store(s.next + j, x);
    }
  } else {
    __builtin_memcpy(s.next, s.received, static_cast<size_t>(layer.padded) * sizeof(float));
  }
  send(layer, s);
}

// Steps from .. to - 1 of a hidden layer's turn.
inline void turn_steps(const NetworkView& net, const Request& request, int64_t l, int64_t from, int64_t to,
                       CodedSample& s) {
  if (net.code->kind == static_cast<int>(CodeKind::staged)) {
    staged_steps(net, request, l, from, to, s);
  } else if (request.spike_counts || request.spikes || request.potentials) {
    note_bits(net, request, l, from, to, s);
  }
}

// A sample through all turns. Returns the steps run; the output is in s.running.
inline int64_t run_turns(const NetworkView& net, const Request& request, CodedSample& s, bool& certain) {
  const CodeView& code = *net.code;
  const int64_t hidden = net.n_layers - 1, T = net.timesteps;
  const bool may_stop = code.exit != static_cast<int>(ExitKind::none);
  for (int64_t l = 0; l < hidden; ++l) {
    turn_current(net, l, s, s.current);
    if (code.kind == static_cast<int>(CodeKind::radix)) {
      radix_numbers(net, l, s);
    } else {
      __builtin_memset(s.received, 0, static_cast<size_t>(net.layers[l].padded) * sizeof(float));
    }
    // The last turn goes step by step where somebody looks at what has arrived by then.
    const int64_t at_once = l == hidden - 1 && (may_stop || request.potentials) ? 1 : T;
    for (int64_t t = 0; t < T; t += at_once) {
      turn_steps(net, request, l, t, t + at_once, s);
      hand_over(net, l, t + at_once - 1, s);
      if (l < hidden - 1) continue;
      turn_current(net, hidden, s, s.running);
      const CodedRecord record = record_of(net, request, hidden, t, s.row);
      if (record.potentials) {
        __builtin_memcpy(record.potentials, s.running, static_cast<size_t>(net.layers[hidden].n_out) * sizeof(float));
      }
      certain = may_stop && radix_is_certain(code, s.running, net.layers[hidden], t, s.weighted);
      if (certain) return l * T + t + 1;
    }
  }
  return hidden * T;
}

}  // namespace
}  // namespace snnfast
