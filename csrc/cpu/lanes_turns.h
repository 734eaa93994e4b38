// SPDX-License-Identifier: Apache-2.0
// Codes "staged" and "radix", a sample per lane.
#pragma once

#include "cpu/copies.h"
#include "cpu/lanes.h"

namespace snnfast {
namespace {

// Whether what plain neurons, of threshold 1, send can be told from their potentials. What a neuron took in and has not
// kept went out as spikes: after t steps of the current h it has sent start + t h - potential, and with a ramp the sum
// of that over all steps. A current below 0 sends as little as 0 does, from a start below the threshold; one above the
// threshold as much as the threshold, from a start that is not negative: so both may be clipped. Then no potential
// exceeds 2 before a spike, or 1 after it, and the spike is taken away exactly; so each step loses at most 2^-23 (half
// of that, in truth), and after T of them all roundings, those of the sum and of `told` included, come to less than (4
// T (T + 1) + 5 T) 2^-24 spikes: a quarter of one after kTellingSteps.
constexpr int64_t kTellingSteps = 1000;

inline bool potentials_tell(const CodeView& code, int64_t timesteps, float start) {
  return code.copies == 1 && timesteps <= kTellingSteps && start >= 0.0f && start < 1.0f;
}

// The turn of N such neurons, under currents (N rows, of which a vector is taken) that what they send replaces. Their
// membranes stay in registers, and their chains of operations, in which nothing waits for a comparison, hide each
// other's latency. With a ramp, a spike is worth the steps that are left, its own included. `counts`: where the spikes
// themselves go, or null.
template <int N, bool Ramp>
SNNFAST_INLINE void staged_lanes(const NetworkView& net, float start, float* row, float* counts) {
  const Vec zero = broadcast(0.0f), one = broadcast(1.0f);
  const NeuronConstants<EagerVec> constants{zero, one, one};
  EagerVec h[N], mem[N];
  Vec sum[N];
#pragma GCC unroll 8
  for (int i = 0; i < N; ++i) {
    h[i] = clip(load(row + i * kPack), zero, one);
    mem[i] = broadcast(start);
    sum[i] = zero;
  }
  for (int64_t t = 0; t < net.timesteps; ++t) {
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) {
      EagerVec none = zero;
      NeuronRule<false, Reset::subtraction, false, false>::step(mem[i], none, h[i], constants);
      // sum + mem. Fused, it is made by the units that multiply: the neuron's step keeps those that add busy.
      if constexpr (Ramp) sum[i] = Vec::lanes > 4 ? multiply_add(mem[i], one, sum[i]) : sum[i] + mem[i];
    }
  }
  const auto steps = static_cast<float>(net.timesteps);
  const auto told = [&](Vec current, float times, float starts, Vec kept) SNNFAST_ALWAYS {
    const Vec taken = multiply_add(current, broadcast(times), broadcast(starts * start));
    return round_down((taken - kept) + broadcast(0.5f));
  };
#pragma GCC unroll 8
  for (int i = 0; i < N; ++i) {
    const Vec spikes = told(h[i], steps, 1.0f, mem[i]);
    if (counts) store(counts + i * kPack, spikes);
    store(row + i * kPack, Ramp ? told(h[i], steps * (steps + 1.0f) / 2.0f, steps, sum[i]) : spikes);
  }
}

// The same with copies, or of any start and number of steps. What they send and what it is worth are whole numbers, and
// products and sums below 2^24: exact.
template <bool Even, int N>
SNNFAST_INLINE void staged_copies(const NetworkView& net, const CopiesOf& copies, float start, float* rows,
                                  float* counts) {
  for (int v = 0; v < kLaneVectors; ++v) {
    float* const row = rows + v * Vec::lanes;
    Vec h[N], mem[N], received[N], spikes[N], none = broadcast(0.0f);
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) {
      h[i] = load(row + i * kPack);
      mem[i] = broadcast(start);
      received[i] = spikes[i] = none;
    }
    for (int64_t t = 0; t < net.timesteps; ++t) {
      const Vec worth = broadcast(static_cast<float>(net.code->ramp ? net.timesteps - t : 1));
#pragma GCC unroll 8
      for (int i = 0; i < N; ++i) {
        const Vec sent = copies.step<false, Even>(mem[i], none, h[i]);
        received[i] = multiply_add(sent, worth, received[i]);
        spikes[i] = spikes[i] + sent;
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) {
      store(row + i * kPack, received[i]);
      if (counts) store(counts + i * kPack + v * Vec::lanes, spikes[i]);
    }
  }
}

constexpr int kTurnNeurons = Vec::lanes == 16 ? 8 : 4;  // as many as fit into registers

// Call f(neurons, first) for all neurons of a layer, N at once.
template <int N, class F>
SNNFAST_INLINE void for_neurons_at_once(int64_t n_out, F&& f) {
  int64_t j = 0;
  for (; j + N <= n_out; j += N) f(VectorCount<N>{}, j);
  for (; j < n_out; ++j) f(VectorCount<1>{}, j);
}

template <bool Ramp>
void staged_turn(const NetworkView& net, int64_t l, float* rows, float* counts) {
  const float start = net.code->layers[l].starts[0];  // all neurons'
  for_neurons_at_once<kTurnNeurons>(net.layers[l].n_out, [&](auto neurons, int64_t j) SNNFAST_ALWAYS {
    for (int64_t at = j * kPack; at < (j + 1) * kPack; at += Vec::lanes) {
      staged_lanes<decltype(neurons)::value, Ramp>(net, start, rows + at, counts ? counts + at : nullptr);
    }
  });
}

__attribute__((noinline)) inline void staged_copies_turn(const NetworkView& net, int64_t l, float* rows,
                                                         float* counts) {
  const CopiesOf copies(*net.code);
  copies.with_levels([&](auto even) {
    constexpr bool Even = decltype(even)::value;
    // Other levels are rare, and their code would be long.
    for_neurons_at_once<Even ? kTurnNeurons : 1>(net.layers[l].n_out, [&](auto neurons, int64_t j) SNNFAST_ALWAYS {
      staged_copies<Even, decltype(neurons)::value>(net, copies, net.code->layers[l].starts[j], rows + j * kPack,
                                                    counts ? counts + j * kPack : nullptr);
    });
  });
}

// A layer's turn: complete currents (rows) become what the neurons send in all, in smallest spikes.
inline void lanes_turn(const NetworkView& net, int64_t l, float* rows, float* counts) {
  const CodeView& code = *net.code;
  const LayerView& layer = net.layers[l];
  if (code.kind == static_cast<int>(CodeKind::staged)) {
    auto* turn = !potentials_tell(code, net.timesteps, code.layers[l].starts[0]) ? staged_copies_turn
                 : code.ramp                                                     ? staged_turn<true>
                                                                                 : staged_turn<false>;
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

inline int64_t turns_packs(const NetworkView& net) {
  return net.code->exit == static_cast<int>(ExitKind::none) ? 1 : kPacksTogether;
}

// The last hidden layer's turn bit by bit, each of `used` samples until it is certain. `lanes.numbers` has all bits;
// `count_row`: of that layer's counts.
inline void radix_exit(const NetworkView& net, const Request& request, int64_t first, int64_t used, const Lanes& lanes,
                       int64_t count_row) {
  const LayerView& last = net.layers[net.n_layers - 1];
  const int64_t size = last.n_in * kPack;
  float* const sends = lanes.first;
  int64_t origin[kPacksTogether * kPack];  // which of the samples a lane has
  LaneMoves moves;
  uint64_t busy[kPacksTogether];
  for (int64_t i = 0; i < used; ++i) origin[i] = i;
  for (int64_t p = 0; p * kPack < used; ++p) busy[p] = first_lanes(used - p * kPack < kPack ? used - p * kPack : kPack);
  for (int64_t t = 0; t < net.timesteps && used > 0; ++t) {
    // Without its lowest bits: a power of two scales exactly.
    const float unit = static_cast<float>(int64_t{1} << (net.timesteps - 1 - t)), inverse = 1.0f / unit;
    for (int64_t p = 0; p * kPack < used; ++p) {
      const float* const numbers = lanes.numbers + p * size;
      for (int64_t r = 0; r < size; r += Vec::lanes) {
        store(sends + r, whole(load(numbers + r) * broadcast(inverse)) * broadcast(unit));
      }
      alignas(64) float now[lanes_outputs(Vec::lanes) * kPack];
      quickest_lane_currents<false>(net)(last, sends, lanes.ids, last.n_in, now);
      uint64_t certain = 0;
      for (int v = 0; v < kLaneVectors; ++v) {
        certain |= static_cast<uint64_t>(lanes_radix_certain(net, now + v * Vec::lanes, t)) << v * Vec::lanes;
      }
      const uint64_t leave = t + 1 == net.timesteps ? busy[p] : certain & busy[p];
      for (uint64_t left = leave; left; left &= left - 1) {
        const int64_t i = __builtin_ctzll(left), from = origin[p * kPack + i], lane = from % kPack;
        float* const pack = lanes.packs + from / kPack * lanes.rows.total * kPack;
        for (int64_t j = 0; j < last.n_out; ++j) lanes.row(pack, lanes.rows.running + j)[lane] = now[j * kPack + i];
        for (int64_t j = 0; request.spike_counts && j < last.n_in; ++j) {  // of the bits that were sent
          const auto sent = static_cast<uint32_t>(numbers[j * kPack + i]) >> (net.timesteps - t - 1);
          lanes.row(pack, count_row + j)[lane] = static_cast<float>(__builtin_popcount(sent));
        }
        const int64_t steps = (net.n_layers - 2) * net.timesteps + t + 1;
        finish_lane(net, request, first + from, lanes, pack, lane, steps, certain >> i & 1u);
      }
      busy[p] &= ~leave;
    }
    used = close_up(busy, origin, used, moves);
    moves.apply(lanes.numbers, size, 0, last.n_in);
  }
}

inline bool run_turns_lanes(const NetworkView& net, const Request& request, int64_t first, int64_t count,
                            const Lanes& lanes, const Interrupt& interrupt) {
  const LaneRows& rows = lanes.rows;
  const LayerView& last = net.layers[net.n_layers - 1];
  const bool leaves = net.code->exit != static_cast<int>(ExitKind::none);
  const int64_t together = turns_packs(net) * kPack;
  for (int64_t begin = 0; begin < count; begin += together) {
    const int64_t used = count - begin < together ? count - begin : together;
    int64_t count_row = rows.counts;
    for (int64_t at = 0; at < used; at += kPack) {
      if (interrupt.poll(interrupt.context)) return false;
      float* const pack = lanes.packs + at * rows.total;
      const int64_t n = used - at < kPack ? used - at : kPack;
      int64_t samples[kPack];
      for (int64_t i = 0; i < n; ++i) samples[i] = first + begin + at + i;
      start_pack(net, request, samples, n, lanes, pack);
      all_inputs(rows.widest, lanes.ids);
      float *sends = lanes.first, *takes = lanes.second;
      count_row = rows.counts;
      for (int64_t l = 0; l + 1 < net.n_layers; ++l) {
        const LayerView& layer = net.layers[l];
        if (l == 0) {
          __builtin_memcpy(sends, lanes.row(pack, rows.constant),
                           static_cast<size_t>(layer.n_out * kPack) * sizeof(float));
        } else {
          quickest_lane_currents<false>(net)(layer, takes, lanes.ids, layer.n_in, sends);
        }
        lanes_turn(net, l, sends, request.spike_counts ? lanes.row(pack, count_row) : nullptr);
        count_row += layer.n_out;
        float* const sent = sends;
        sends = takes;
        takes = sent;
      }
      if (leaves) {
        const int64_t size = last.n_in * kPack;
        __builtin_memcpy(lanes.numbers + at / kPack * size, takes, static_cast<size_t>(size) * sizeof(float));
        continue;
      }
      quickest_lane_currents<false>(net)(last, takes, lanes.ids, last.n_in, lanes.row(pack, rows.running));
      for (int64_t i = 0; i < n; ++i) {
        finish_lane(net, request, samples[i], lanes, pack, i, (net.n_layers - 1) * net.timesteps, false);
      }
    }
    if (leaves) radix_exit(net, request, first + begin, used, lanes, count_row - last.n_in);
  }
  return true;
}

}  // namespace
}  // namespace snnfast
