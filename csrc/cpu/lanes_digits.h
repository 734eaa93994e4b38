// SPDX-License-Identifier: Apache-2.0
// Code "digits", a sample per lane. All lanes are at the same step, so a weight times what a digit is worth in it is
// one number for all of them, made when the plan is: a digit adds it, subtracts it or leaves it, exactly. Packs that
// have lost samples to an early exit are filled up from the last ones.
#pragma once

#include "cpu/lanes.h"

namespace snnfast {
namespace {

// Call f(output, what arrives there) for every output of the next layer, from the digits of a step.
template <bool FromMemory, class F>
SNNFAST_INLINE void for_digit_currents(const CodeLayerView& layer, int64_t t, int64_t n_out, const float* digits,
                                       const uint32_t* ids, int64_t n_ids, F&& f) {
  const DigitStepView& step = layer.steps[t];
  const auto products = [&](int64_t j) { return LaneWeights{step.products + j, layer.width}; };
  const auto add = [](Vec sum, Vec product, Vec digit) SNNFAST_ALWAYS { return multiply_add(product, digit, sum); };
  for_lane_sums<FromMemory>(n_out, products, digits, ids, n_ids, add, f);
}

// Where drives are above 1, or no number: 1.
struct Beyond {
  Mask within[kLaneVectors];

  SNNFAST_INLINE Beyond() {
    for (int v = 0; v < kLaneVectors; ++v) within[v] = at_least(broadcast(1.0f), broadcast(1.0f));
  }
  SNNFAST_INLINE void see(int v, Vec drive) { within[v] = both(within[v], at_least(broadcast(1.0f), drive)); }
  SNNFAST_INLINE void write(float* row) const {
    for (int v = 0; v < kLaneVectors; ++v) store(row + v * Vec::lanes, clear_where(within[v], broadcast(1.0f)));
  }
};

// What follows from the drives that a pack starts with.
inline void start_digits(const NetworkView& net, const Lanes& lanes, float* pack) {
  const LaneRows& rows = lanes.rows;
  const Vec zero = broadcast(0.0f), one = broadcast(1.0f);
  for (int64_t l = 0; l + 1 < net.n_layers; ++l) {
    Beyond beyond;
    for (int64_t j = 0; j < net.layers[l].n_out; ++j) {
      const Pack drive = load_pack(lanes.row(pack, rows.state + net.code->layers[l].offset + j));
      for (int v = 0; v < kLaneVectors; ++v) {
        beyond.see(v, drive.v[v]);
        if (l == 0) store(lanes.row(pack, rows.constant + j) + v * Vec::lanes, clip(drive.v[v], zero, one));
      }
    }
    beyond.write(lanes.row(pack, rows.flags + l));
  }
}

// The neurons of a layer that may spike in a step. Writes their digits, a row each, and lists in `ids` those that are
// not 0 in every lane; returns how many. Ready: `drives` are clipped. Digits without signs have guards. `counts`: rows,
// or null.
template <bool Signed, bool Ready>
SNNFAST_INLINE int64_t fire_digits(const DigitStepView step, const float* drives, float* sents, float* digits,
                                   uint32_t* ids, float* counts) {
  const Vec zero = broadcast(0.0f), one = broadcast(1.0f);
  int64_t n_ids = 0;
  for (int64_t i = 0; i < step.n; ++i) {
    const int64_t j = step.neurons[i];
    const Vec value = broadcast(step.values[i]), threshold = broadcast(step.thresholds[i]);
    uint32_t any = 0;
    for (int v = 0; v < kLaneVectors; ++v) {
      const int64_t at = j * kPack + v * Vec::lanes;
      Vec wanted = load(drives + at), sent = load(sents + at);
      if constexpr (!Signed) wanted = wanted - broadcast(step.guards[i]);
      if constexpr (!Ready) wanted = clip(wanted, zero, one);
      Mask fired;
      store(digits + i * kPack + v * Vec::lanes, digit_step<Signed>(wanted, sent, value, threshold, one, fired));
      store(sents + at, sent);
      any |= bits(fired);
      if (counts) store(counts + at, load(counts + at) + keep_where(fired, one));
    }
    ids[n_ids] = static_cast<uint32_t>(i);
    n_ids += any != 0;
  }
  return n_ids;
}

// What hidden layer l - 1 sends in step t arrives at layer l: drives of a hidden one, outputs of the last.
template <bool FromMemory>
__attribute__((noinline)) void digits_arrive(const NetworkView& net, const Lanes& lanes, float* pack, int64_t t,
                                             int64_t l, const float* digits, int64_t n_ids) {
  const LaneRows& rows = lanes.rows;
  const bool hidden = l + 1 < net.n_layers;
  float* const to = lanes.row(pack, hidden ? rows.state + net.code->layers[l].offset : rows.running);
  Beyond beyond;
  for_digit_currents<FromMemory>(net.code->layers[l - 1], t, net.layers[l].n_out, digits, lanes.ids, n_ids,
                                 [&](int64_t j, const Pack& h) SNNFAST_ALWAYS {
                                   for (int v = 0; v < kLaneVectors; ++v) {
                                     float* const at = to + j * kPack + v * Vec::lanes;
                                     const Vec sum = load(at) + h.v[v];
                                     store(at, sum);
                                     beyond.see(v, sum);
                                   }
                                 });
  if (hidden) beyond.write(lanes.row(pack, rows.flags + l));
}

template <bool Signed>
void lanes_digits_step(const NetworkView& net, const Lanes& lanes, float* pack, int64_t t, bool counts) {
  const CodeView& code = *net.code;
  const LaneRows& rows = lanes.rows;
  const auto arrive = loads_weights_again(net) ? digits_arrive<true> : digits_arrive<false>;
  float *sends = lanes.first, *takes = lanes.second;
  int64_t count_row = rows.counts, n_ids = 0;
  for (int64_t l = 0; l < net.n_layers; ++l) {
    if (n_ids > 0) arrive(net, lanes, pack, t, l, takes, n_ids);  // or nothing arrives, and nothing changes
    if (l + 1 == net.n_layers) break;
    const CodeLayerView& layer = code.layers[l];
    float* const drives = lanes.row(pack, rows.state + layer.offset);
    float* const sents = lanes.row(pack, rows.sent + layer.offset);
    float* const counted = counts ? lanes.row(pack, count_row) : nullptr;
    const DigitStepView& step = layer.steps[t];
    if (Signed && l == 0) {  // without guards: the first layer's drives are clipped once and for all
      n_ids = fire_digits<Signed, Signed>(step, lanes.row(pack, rows.constant), sents, sends, lanes.ids, counted);
    } else {
      n_ids = fire_digits<Signed, false>(step, drives, sents, sends, lanes.ids, counted);
    }
    count_row += net.layers[l].n_out;
    float* const sent = sends;
    sends = takes;
    takes = sent;
  }
}

// Lanes of a vector in which no drive may end above what certificates hold for.
inline uint32_t lanes_inside(const NetworkView& net, const Lanes& lanes, const float* pack, int64_t t, int64_t at) {
  const LaneRows& rows = lanes.rows;
  const Vec zero = broadcast(0.0f), terms = load(pack + rows.terms * kPack + at);
  Mask inside = at_least(zero, zero);
  for (int64_t l = 0; l + 1 < net.n_layers; ++l) {
    const CodeLayerView& tables = net.code->layers[l];
    const Vec most = broadcast(most_drive(net, l));
    const float *drift = tables.drift + t * net.layers[l].padded,
                *drives = pack + (rows.state + tables.offset) * kPack + at;
    for (int64_t j = 0; j < net.layers[l].n_out; ++j) {
      const Vec moves = broadcast(drift[j]) + terms * broadcast(tables.rounding[j]);
      inside = both(inside, at_least(most, load(drives + j * kPack) + moves));
    }
    const Vec beyond = load(pack + (rows.flags + l) * kPack + at);
    inside = both(inside, at_least(zero, beyond));
  }
  return bits(inside);
}

// Lanes of a vector whose decision is certain: digits_are_certain of coded_exit.h, in the same order. Two: there are
// two outputs, so one can overtake, and what it takes stays in a register.
template <bool Two>
SNNFAST_INLINE uint32_t lanes_certain(const NetworkView& net, const Lanes& lanes, const float* pack, int64_t t,
                                      int64_t at) {
  const CodeView& code = *net.code;
  const LaneRows& rows = lanes.rows;
  const int64_t l = net.n_layers - 2;
  const LayerView &hidden = net.layers[l], &last = net.layers[l + 1];
  const CodeLayerView& tables = code.layers[l];
  const float *running = pack + rows.running * kPack + at, *drives = pack + (rows.state + tables.offset) * kPack + at,
              *sents = pack + (rows.sent + tables.offset) * kPack + at, *weights = last.weights,
              *drifts = tables.drift + t * hidden.padded, *rounding = tables.rounding;
  const Vec zero = broadcast(0.0f), terms = load(pack + rows.terms * kPack + at), slack = broadcast(code.slack);
  const LaneBest best = lane_best(running, Two ? 2 : last.n_out);
  const int64_t width = panel_vectors(last, 0) * Vec::lanes, n = hidden.n_out;  // few outputs: one panel
  const Mask second = at_least(best.index, broadcast(1.0f));
  Vec worst[Two ? 1 : kLanesOutputs];
  for (int64_t b = 0; b < (Two ? 1 : last.n_out); ++b) worst[b] = zero;
  for (int64_t j = 0; j < n; ++j) {
    const Vec drive = load(drives + j * kPack), sent = load(sents + j * kPack);
    const Vec moves = broadcast(drifts[j]) + terms * broadcast(rounding[j]);
    const Vec low = larger(drive - moves, zero) - sent, high = larger(drive + moves, zero) - sent;
    const float* const w = weights + j * width;
    const auto overtake = [&](Vec sum, Vec difference)
                              SNNFAST_ALWAYS { return sum + smaller(difference * low, difference * high); };
    if constexpr (Two) {
      const Vec first = broadcast(w[0]), other = broadcast(w[1]);
      worst[0] = overtake(worst[0], choose(second, other, first) - choose(second, first, other));
      continue;
    }
    Vec top = broadcast(w[0]);
    for (int64_t b = 1; b < last.n_out; ++b) {
      top = choose(at_least(best.index, broadcast(static_cast<float>(b))), broadcast(w[b]), top);
    }
    for (int64_t b = 0; b < last.n_out; ++b) worst[b] = overtake(worst[b], top - broadcast(w[b]));
  }
  uint32_t certain = bits(above(best.ordered, zero));
  if constexpr (Two) {
    certain &= bits(above((best.first - best.second) + worst[0], slack));
  } else {
    for (int64_t b = 0; b < last.n_out; ++b) {
      const Vec place = broadcast(static_cast<float>(b));
      const uint32_t same = bits(at_least(best.index, place)) & bits(at_least(place, best.index));
      certain &= same | bits(above((best.first - load(running + b * kPack)) + worst[b], slack));
    }
  }
  return certain ? certain & lanes_inside(net, lanes, pack, t, at) : 0;
}

// Lanes of a pack that may stop after step t; `certain`: those whose decision is certain.
inline uint64_t digits_stop(const NetworkView& net, const Lanes& lanes, const float* pack, int64_t t,
                            uint64_t* certain) {
  const CodeView& code = *net.code;
  uint64_t stops = 0;
  for (int v = 0; v < kLaneVectors; ++v) {
    const int64_t at = v * Vec::lanes;
    uint64_t lanes_of_v = 0;
    if (code.exit == static_cast<int>(ExitKind::certified)) {
      lanes_of_v = net.layers[net.n_layers - 1].n_out == 2 ? lanes_certain<true>(net, lanes, pack, t, at)
                                                           : lanes_certain<false>(net, lanes, pack, t, at);
      *certain |= lanes_of_v << at;
    } else if (code.exit == static_cast<int>(ExitKind::calibrated)) {
      const LaneBest best = lane_best(pack + lanes.rows.running * kPack + at, net.layers[net.n_layers - 1].n_out);
      lanes_of_v =
          bits(above(best.first - best.second, broadcast(code.bounds[t]))) & bits(above(best.ordered, broadcast(0.0f)));
    }
    stops |= lanes_of_v << at;
  }
  return stops;
}

// To run two packs by turns pays where none stops, too: they share what a step reads.
inline int64_t digits_packs(const NetworkView& net) {
  return net.code->exit == static_cast<int>(ExitKind::none) ? kPacksTogether / 2 : kPacksTogether;
}

inline bool run_digits_lanes(const NetworkView& net, const Request& request, int64_t first, int64_t count,
                             const Lanes& lanes, const Interrupt& interrupt) {
  auto* const step = is_guarded(net) ? lanes_digits_step<false> : lanes_digits_step<true>;
  const int64_t size = lanes.rows.total * kPack, together = digits_packs(net) * kPack;
  int64_t samples[kPacksTogether * kPack];  // of every lane
  int64_t sources[kPacksTogether * kPack], targets[kPacksTogether * kPack];
  uint64_t busy[kPacksTogether] = {};  // lanes that have a sample, of every pack
  const auto place_of = [&](int64_t lane) { return lane / kPack * size + lane % kPack; };
  for (int64_t begin = 0; begin < count; begin += together) {
    int64_t used = count - begin < together ? count - begin : together;
    for (int64_t i = 0; i < used; ++i) samples[i] = first + begin + i;
    for (int64_t i = 0; i < used; i += kPack) {
      const int64_t n = used - i < kPack ? used - i : kPack;
      start_pack(net, request, samples + i, n, lanes, lanes.packs + place_of(i));
      start_digits(net, lanes, lanes.packs + place_of(i));
      busy[i / kPack] = first_lanes(n);
    }
    for (int64_t t = 0; t < net.timesteps && used > 0; ++t) {
      if (interrupt.poll(interrupt.context)) return false;
      const bool end = t + 1 == net.timesteps;
      for (int64_t p = 0; p * kPack < used; ++p) {
        float* const pack = lanes.packs + p * size;
        step(net, lanes, pack, t, request.spike_counts != nullptr);
        uint64_t certain = 0;
        const uint64_t stops = digits_stop(net, lanes, pack, t, &certain), leave = end ? busy[p] : stops & busy[p];
        for (uint64_t left = leave; left; left &= left - 1) {
          const int64_t i = __builtin_ctzll(left);
          finish_lane(net, request, samples[p * kPack + i], lanes, pack, i, t + 1, certain >> i & 1u);
        }
        busy[p] &= ~leave;
      }
      int64_t n_moves = 0;
      used = close_up(busy, used, [&](int64_t from, int64_t to) {
        samples[to] = samples[from];
        sources[n_moves] = place_of(from);
        targets[n_moves++] = place_of(to);
      });
      if (n_moves == 0) continue;
      const auto move = [&](int64_t row, int64_t to) {
        for (; row < to; ++row) {
          float* const at = lanes.packs + row * kPack;
          for (int64_t i = 0; i < n_moves; ++i) at[targets[i]] = at[sources[i]];
        }
      };
      move(0, lanes.rows.output);
      move(lanes.rows.running, request.spike_counts ? lanes.rows.total : lanes.rows.counts);
    }
  }
  return true;
}

}  // namespace
}  // namespace snnfast
