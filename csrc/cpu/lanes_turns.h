// SPDX-License-Identifier: Apache-2.0
// Codes "staged" and "radix", a sample per lane.
#pragma once

#include "cpu/lanes.h"

namespace snnfast {
namespace {

// The turn of N plain neurons with copies, under currents (N rows) that what they send replaces. Their membranes stay
// in registers, and their chains of operations hide each other's latency. With a ramp, a spike is worth the steps that
// are left, its own included; Counted: the spikes themselves are asked for as well (without a ramp they are the same).
template <int N, bool Ramp, bool Counted>
SNNFAST_INLINE void staged_lanes(const NetworkView& net, const float* starts, int64_t stride, float* rows,
                                 float* counts) {
  using Rule = NeuronRule<false, Reset::subtraction, false, false>;
  const NeuronConstants<Vec> constants = vector_constants(net);
  for (int v = 0; v < kLaneVectors; ++v) {
    float* const row = rows + v * Vec::lanes;
    Vec h[N];
    Integers received[N], spikes[N];
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) {
      h[i] = load(row + i * kPack);
      received[i] = spikes[i] = no_count();
    }
    for (int64_t k = 0; k < net.code->copies; ++k) {
      Vec mem[N];
#pragma GCC unroll 8
      for (int i = 0; i < N; ++i) mem[i] = broadcast(starts[k * stride + i]);
      for (int64_t t = 0; t < net.timesteps; ++t) {
        const Integers worth = whole_number(Ramp ? static_cast<int32_t>(net.timesteps - t) : 1);
#pragma GCC unroll 8
        for (int i = 0; i < N; ++i) {
          Vec none = broadcast(0.0f);
          const auto fired = step_beside<Rule>(i, mem[i], none, h[i], constants);
          received[i] = add_where(fired, received[i], worth);
          if constexpr (Ramp && Counted) spikes[i] = count(spikes[i], fired);
        }
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) {
      store(row + i * kPack, to_float(received[i]));
      if constexpr (Counted) store(counts + i * kPack + v * Vec::lanes, to_float(Ramp ? spikes[i] : received[i]));
    }
  }
}

template <bool Ramp, bool Counted>
void staged_turn(const NetworkView& net, int64_t l, float* rows, float* counts) {
  const LayerView& layer = net.layers[l];
  const float* starts = net.code->layers[l].starts;
  constexpr int N = Vec::lanes == 16 ? 8 : 4;  // as many as fit in registers
  const auto at = [&](int64_t j) { return Counted ? counts + j * kPack : nullptr; };
  int64_t j = 0;
  for (; j + N <= layer.n_out; j += N) {
    staged_lanes<N, Ramp, Counted>(net, starts + j, layer.padded, rows + j * kPack, at(j));
  }
  for (; j < layer.n_out; ++j) {
    staged_lanes<1, Ramp, Counted>(net, starts + j, layer.padded, rows + j * kPack, at(j));
  }
}

// A layer's turn: complete currents (rows) become what the neurons send in all, in smallest spikes.
inline void lanes_turn(const NetworkView& net, int64_t l, float* rows, float* counts) {
  const CodeView& code = *net.code;
  const LayerView& layer = net.layers[l];
  if (code.kind == static_cast<int>(CodeKind::staged)) {
    auto* turn = code.ramp ? counts ? staged_turn<true, true> : staged_turn<true, false>
                 : counts  ? staged_turn<false, true>
                           : staged_turn<false, false>;
    return turn(net, l, rows, counts);
  }
  const Vec zero = broadcast(0.0f), offset = broadcast(code.offset);
  const Vec levels = broadcast(static_cast<float>((int64_t{1} << net.timesteps) - 1));
  for (int64_t i = 0; i < layer.n_out * kPack; i += Vec::lanes) {
    store(rows + i, radix_number(load(rows + i), levels, offset, zero));
  }
  for (int64_t i = 0; counts && i < layer.n_out * kPack; ++i) {
    counts[i] = static_cast<float>(__builtin_popcount(static_cast<uint32_t>(rows[i])));
  }
}

// The outputs, from what the last hidden layer has sent.
inline void lanes_output(const NetworkView& net, const Lanes& lanes, const float* values, Pack* outputs) {
  const LayerView& last = net.layers[net.n_layers - 1];
  for_lane_currents(last, values, lanes.ids, last.n_in,
                    [&](int64_t j, const Pack& h) { outputs[j] = with_bias(last, j, h); });
}

// Lanes of a vector whose decision the bits to come cannot change: radix_is_certain of coded_exit.h.
inline uint32_t lanes_radix_certain(const NetworkView& net, const float* running, int64_t t) {
  const CodeView& code = *net.code;
  const LayerView& last = net.layers[net.n_layers - 1];
  const LaneBest best = lane_best(running, last.n_out);
  uint32_t certain = bits(above(best.ordered, broadcast(0.0f)));
  for (int64_t b = 0; b < last.n_out; ++b) {
    const Vec place = broadcast(static_cast<float>(b));
    const uint32_t same = bits(at_least(best.index, place)) & bits(at_least(place, best.index));
    Vec overtake = broadcast(code.overtake[b]);
    for (int64_t a = 1; a < last.n_out; ++a) {
      const Vec of_a = broadcast(code.overtake[a * last.padded + b]);
      overtake = choose(at_least(best.index, broadcast(static_cast<float>(a))), of_a, overtake);
    }
    const Vec worst = broadcast(code.left[t]) * overtake;
    certain &= same | bits(above((best.first - load(running + b * kPack)) + worst, broadcast(code.slack)));
  }
  return certain;
}

// The last hidden layer's turn bit by bit, each lane until it is certain. `numbers`: all bits. Writes the steps of the
// turn that every lane has run, and which lanes were certain.
inline uint64_t radix_exit(const NetworkView& net, const Lanes& lanes, float* pack, const float* numbers, float* sends,
                           int64_t n, int64_t* steps) {
  const LayerView& last = net.layers[net.n_layers - 1];
  const uint64_t all = n < 64 ? (uint64_t{1} << n) - 1 : ~uint64_t{0};
  uint64_t stopped = 0;
  for (int64_t i = 0; i < n; ++i) steps[i] = net.timesteps;
  for (int64_t t = 0; t < net.timesteps && (stopped & all) != all; ++t) {
    // Without its lowest bits: a power of two scales exactly.
    const float unit = static_cast<float>(int64_t{1} << (net.timesteps - 1 - t)), inverse = 1.0f / unit;
    for (int64_t r = 0; r < last.n_in * kLaneVectors; ++r) {
      store(sends + r * Vec::lanes, whole(load(numbers + r * Vec::lanes) * broadcast(inverse)) * broadcast(unit));
    }
    Pack outputs[kLanesOutputs];
    lanes_output(net, lanes, sends, outputs);
    uint64_t certain = 0;
    for (int v = 0; v < kLaneVectors; ++v) {
      const int64_t at = v * Vec::lanes;
      alignas(64) float now[kLanesOutputs * kPack];
      for (int64_t j = 0; j < last.n_out; ++j) store(now + j * kPack, outputs[j].v[v]);
      certain |= static_cast<uint64_t>(lanes_radix_certain(net, now, t)) << at;
    }
    const uint64_t new_ones = (t + 1 == net.timesteps ? all : certain) & ~stopped & all;
    for (int64_t j = 0; new_ones && j < last.n_out; ++j) {
      alignas(64) float now[kPack];
      store_pack(now, outputs[j]);
      for (int64_t i = 0; i < n; ++i) {
        if (new_ones >> i & 1u) lanes.row(pack, lanes.rows.running + j)[i] = now[i];
      }
    }
    for (int64_t i = 0; i < n; ++i) {
      if (new_ones >> i & 1u) steps[i] = t + 1;
    }
    stopped |= new_ones;
    if (t + 1 == net.timesteps) return all & (~new_ones | certain);
  }
  return all;
}

inline bool run_turns_lanes(const NetworkView& net, const Request& request, int64_t first, int64_t count,
                            const Lanes& lanes, const Interrupt& interrupt) {
  const LaneRows& rows = lanes.rows;
  const bool leaves = net.code->exit != static_cast<int>(ExitKind::none);
  float* const pack = lanes.packs;
  all_inputs(rows.widest, lanes.ids);
  for (int64_t begin = 0; begin < count; begin += kPack) {
    if (interrupt.poll(interrupt.context)) return false;
    const int64_t n = count - begin < kPack ? count - begin : kPack;
    int64_t samples[kPack], steps[kPack];
    for (int64_t i = 0; i < n; ++i) samples[i] = first + begin + i, steps[i] = net.timesteps;
    start_pack(net, request, samples, n, lanes, pack);
    float *sends = lanes.first, *takes = lanes.second;
    int64_t count_row = rows.counts;
    for (int64_t l = 0; l + 1 < net.n_layers; ++l) {
      const LayerView& layer = net.layers[l];
      if (l == 0) {
        __builtin_memcpy(sends, lanes.row(pack, rows.constant),
                         static_cast<size_t>(layer.n_out * kPack) * sizeof(float));
      } else {
        for_lane_currents(layer, takes, lanes.ids, layer.n_in,
                          [&](int64_t j, const Pack& h) { store_pack(sends + j * kPack, with_bias(layer, j, h)); });
      }
      lanes_turn(net, l, sends, request.spike_counts ? lanes.row(pack, count_row) : nullptr);
      count_row += layer.n_out;
      float* const sent = sends;
      sends = takes;
      takes = sent;
    }
    uint64_t certain = 0;
    if (leaves) {
      certain = radix_exit(net, lanes, pack, takes, sends, n, steps);
      const int64_t hidden = net.layers[net.n_layers - 1].n_in;
      for (int64_t j = 0; request.spike_counts && j < hidden; ++j) {
        float* const counts = lanes.row(pack, count_row - hidden + j);
        for (int64_t i = 0; i < n; ++i) {  // of the bits that were sent
          const auto number = static_cast<uint32_t>(takes[j * kPack + i]);
          counts[i] = static_cast<float>(__builtin_popcount(number >> (net.timesteps - steps[i])));
        }
      }
    } else {
      Pack outputs[kLanesOutputs];
      lanes_output(net, lanes, takes, outputs);
      for (int64_t j = 0; j < net.layers[net.n_layers - 1].n_out; ++j) {
        store_pack(lanes.row(pack, rows.running + j), outputs[j]);
      }
    }
    for (int64_t i = 0; i < n; ++i) {
      const int64_t total = (net.n_layers - 2) * net.timesteps + steps[i];
      finish_lane(net, request, samples[i], lanes, pack, i, total, certain >> i & 1u);
    }
  }
  return true;
}

}  // namespace
}  // namespace snnfast
