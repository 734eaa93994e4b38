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
  constexpr int kMasks = 4;
  Mask inside[kMasks];  // a comparison waits for the mask that it narrows
  for (Mask& mask : inside) mask = at_least(zero, zero);
  for (int64_t l = 0; l + 1 < net.n_layers; ++l) {
    const CodeLayerView& tables = net.code->layers[l];
    const int64_t n = net.layers[l].n_out;
    const Vec most = broadcast(most_drive(net, l));
    const float *drift = tables.drift + t * net.layers[l].padded,
                *drives = pack + (rows.state + tables.offset) * kPack + at;
    const auto see = [&](int64_t j, Mask& mask) SNNFAST_ALWAYS {
      const Vec moves = broadcast(drift[j]) + terms * broadcast(tables.rounding[j]);
      mask = both(mask, at_least(most, load(drives + j * kPack) + moves));
    };
    int64_t j = 0;
    for (; j + kMasks <= n; j += kMasks) {
#pragma GCC unroll 4
      for (int i = 0; i < kMasks; ++i) see(j + i, inside[i]);
    }
    for (; j < n; ++j) see(j, inside[0]);
    const Vec beyond = load(pack + (rows.flags + l) * kPack + at);
    inside[1] = both(inside[1], at_least(zero, beyond));  // any of them: all are joined in the end
  }
  return bits(both(both(inside[0], inside[1]), both(inside[2], inside[3])));
}

static_assert(lanes_outputs(Vec::lanes) <= kPanel, "the weights of all outputs are one panel");

// What the last hidden layer has still to send, of the lanes from `at` on, as DigitsLeft of coded_exit.h.
struct LanesLeft {
  const float *drives, *sents, *drifts, *rounding, *weights;
  int64_t neurons, width;

  LanesLeft(const NetworkView& net, const LaneRows& rows, const float* pack, int64_t t, int64_t at) {
    const int64_t l = net.n_layers - 2;
    const CodeLayerView& tables = net.code->layers[l];
    drives = pack + (rows.state + tables.offset) * kPack + at;
    sents = pack + (rows.sent + tables.offset) * kPack + at;
    drifts = tables.drift + t * net.layers[l].padded;
    rounding = tables.rounding;
    weights = net.layers[l + 1].weights;
    neurons = net.layers[l].n_out;
    width = panel_vectors(net.layers[l + 1], 0) * Vec::lanes;  // one panel
  }

  // f(the least, the most that neuron j may send) of a vector, `terms` its samples'.
  template <class F>
  SNNFAST_INLINE void of(int64_t j, int64_t v, Vec terms, F&& f) const {
    const Vec zero = broadcast(0.0f), drive = load(drives + j * kPack + v * Vec::lanes),
              sent = load(sents + j * kPack + v * Vec::lanes);
    const Vec moves = broadcast(drifts[j]) + terms * broadcast(rounding[j]);
    f(larger(drive - moves, zero) - sent, larger(drive + moves, zero) - sent);
  }
};

// Those of the lanes `going` of the vector at `at` whose decision is certain: digits_are_certain of coded_exit.h, in
// the same order.
inline uint32_t lanes_certain(const NetworkView& net, const Lanes& lanes, const float* pack, int64_t t, int64_t at,
                              uint32_t going) {
  const CodeView& code = *net.code;
  const LaneRows& rows = lanes.rows;
  const LanesLeft left(net, rows, pack, t, at);
  const float* const running = pack + rows.running * kPack + at;
  const int64_t outputs = net.layers[net.n_layers - 1].n_out;
  const Vec zero = broadcast(0.0f), terms = load(pack + rows.terms * kPack + at), slack = broadcast(code.slack);
  const LaneBest best = lane_best(running, outputs);
  Vec worst[lanes_outputs(Vec::lanes)];
  for (int64_t b = 0; b < outputs; ++b) worst[b] = zero;
  for (int64_t j = 0; j < left.neurons; ++j) {
    const float* const w = left.weights + j * left.width;
    Vec top = broadcast(w[0]);
    for (int64_t b = 1; b < outputs; ++b) {
      top = choose(at_least(best.index, broadcast(static_cast<float>(b))), broadcast(w[b]), top);
    }
    left.of(j, 0, terms, [&](Vec low, Vec high) SNNFAST_ALWAYS {
      for (int64_t b = 0; b < outputs; ++b) {
        const Vec difference = top - broadcast(w[b]);
        worst[b] = worst[b] + smaller(difference * low, difference * high);
      }
    });
  }
  uint32_t certain = going & bits(above(best.ordered, zero));
  for (int64_t b = 0; b < outputs; ++b) {
    const Vec place = broadcast(static_cast<float>(b));
    const uint32_t same = bits(at_least(best.index, place)) & bits(at_least(place, best.index));
    certain &= same | bits(above((best.first - load(running + b * kPack)) + worst[b], slack));
  }
  return certain ? certain & lanes_inside(net, lanes, pack, t, at) : 0;
}

// The same of two outputs, where only one can overtake, and of all vectors of a pack at once.
inline uint64_t lanes_certain_of_two(const NetworkView& net, const Lanes& lanes, const float* pack, int64_t t,
                                     uint64_t busy) {
  const LaneRows& rows = lanes.rows;
  const LanesLeft left(net, rows, pack, t, 0);
  const Vec zero = broadcast(0.0f), one = broadcast(1.0f);
  LaneBest best[kLaneVectors];
  Vec terms[kLaneVectors], worst[kLaneVectors];
  Mask second[kLaneVectors];
  for (int v = 0; v < kLaneVectors; ++v) {
    best[v] = lane_best(pack + rows.running * kPack + v * Vec::lanes, 2);
    terms[v] = load(pack + rows.terms * kPack + v * Vec::lanes);
    worst[v] = zero;
    second[v] = at_least(best[v].index, one);
  }
  for (int64_t j = 0; j < left.neurons; ++j) {
    const Vec first = broadcast(left.weights[j * left.width]), other = broadcast(left.weights[j * left.width + 1]);
    for (int v = 0; v < kLaneVectors; ++v) {
      left.of(j, v, terms[v], [&](Vec low, Vec high) SNNFAST_ALWAYS {
        const Vec difference = choose(second[v], other, first) - choose(second[v], first, other);
        worst[v] = worst[v] + smaller(difference * low, difference * high);
      });
    }
  }
  uint64_t all = 0;
  for (int v = 0; v < kLaneVectors; ++v) {
    const Mask ahead = above((best[v].first - best[v].second) + worst[v], broadcast(net.code->slack));
    const uint32_t certain = bits(both(ahead, above(best[v].ordered, zero))) &
                             static_cast<uint32_t>(busy >> v * Vec::lanes & first_lanes(Vec::lanes));
    if (certain) all |= uint64_t{certain & lanes_inside(net, lanes, pack, t, v * Vec::lanes)} << v * Vec::lanes;
  }
  return all;
}

// Those of the lanes `busy` of a pack that may stop after step t.
inline uint64_t digits_stop(const NetworkView& net, const Lanes& lanes, const float* pack, int64_t t, uint64_t busy) {
  const CodeView& code = *net.code;
  const int64_t outputs = net.layers[net.n_layers - 1].n_out;
  const bool certified = code.exit == static_cast<int>(ExitKind::certified);
  if (code.exit == static_cast<int>(ExitKind::none)) return 0;
  if (certified && outputs == 2) return lanes_certain_of_two(net, lanes, pack, t, busy);
  uint64_t stops = 0;
  for (int v = 0; v < kLaneVectors; ++v) {
    const int64_t at = v * Vec::lanes;
    const auto going = static_cast<uint32_t>(busy >> at & first_lanes(Vec::lanes));
    if (!going) continue;
    if (certified) {
      stops |= uint64_t{lanes_certain(net, lanes, pack, t, at, going)} << at;
      continue;
    }
    const LaneBest best = lane_best(pack + lanes.rows.running * kPack + at, outputs);
    const Mask ahead = above(best.first - best.second, broadcast(code.bounds[t]));
    stops |= uint64_t{going & bits(both(ahead, above(best.ordered, broadcast(0.0f))))} << at;
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
  LaneMoves moves;
  uint64_t busy[kPacksTogether] = {};  // lanes that have a sample, of every pack
  const bool certified = net.code->exit == static_cast<int>(ExitKind::certified);
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
        const uint64_t stops = digits_stop(net, lanes, pack, t, busy[p]), leave = end ? busy[p] : stops;
        for (uint64_t left = leave; left; left &= left - 1) {
          const int64_t i = __builtin_ctzll(left);
          finish_lane(net, request, samples[p * kPack + i], lanes, pack, i, t + 1, certified && stops >> i & 1u);
        }
        busy[p] &= ~leave;
      }
      used = close_up(busy, samples, used, moves);
      moves.apply(lanes.packs, size, 0, lanes.rows.output);
      moves.apply(lanes.packs, size, lanes.rows.running, request.spike_counts ? lanes.rows.total : lanes.rows.counts);
    }
  }
  return true;
}

}  // namespace
}  // namespace snnfast
