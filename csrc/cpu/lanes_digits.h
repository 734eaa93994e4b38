// SPDX-License-Identifier: Apache-2.0
// Code "digits", a sample per lane. All lanes are at the same step, whose tables they share; packs that have lost
// samples to an early exit are filled up from the last ones.
#pragma once

#include "cpu/lanes.h"

namespace snnfast {
namespace {

template <bool Signed>
void lanes_digits_step(const NetworkView& net, const Lanes& lanes, float* pack, int64_t t, bool counts) {
  const CodeView& code = *net.code;
  const LaneRows& rows = lanes.rows;
  const Vec zero = broadcast(0.0f), one = broadcast(1.0f);
  float *sends = lanes.first, *takes = lanes.second;
  int64_t count_row = rows.counts, n_ids = 0;
  Pack beyond, leaves;  // 1 where a drive is above 1, or no number; where one may end above what certificates hold for
  for (int v = 0; v < kLaneVectors; ++v) beyond.v[v] = leaves.v[v] = zero;
  for (int64_t l = 0; l + 1 < net.n_layers; ++l) {
    const LayerView& layer = net.layers[l];
    const CodeLayerView& tables = code.layers[l];
    const int64_t row = t * layer.padded;
    const Vec most = broadcast(most_drive(net, l));
    const float* const terms = lanes.row(pack, rows.terms);
    const auto fire = [&](int64_t j, const Pack& drive) {
      for (int v = 0; v < kLaneVectors; ++v) {
        beyond.v[v] = choose(at_least(one, drive.v[v]), beyond.v[v], one);
        if (!tables.drift) continue;
        const Vec drift =
            broadcast(tables.drift[row + j]) + load(terms + v * Vec::lanes) * broadcast(tables.rounding[j]);
        leaves.v[v] = choose(at_least(most, drive.v[v] + drift), leaves.v[v], one);
      }
      if (!(tables.values[row + j] > 0.0f)) return;  // silent in this step
      const Vec value = broadcast(tables.values[row + j]), threshold = broadcast(tables.thresholds[row + j]);
      float* const sent = lanes.row(pack, rows.sent + tables.offset + j);
      Pack spikes;
      for (int v = 0; v < kLaneVectors; ++v) {
        const int64_t at = v * Vec::lanes;
        const Vec wanted = tables.guards ? drive.v[v] - broadcast(tables.guards[row + j]) : drive.v[v];
        Vec total = load(sent + at);
        const Vec digit = digit_step<Signed>(wanted, total, value, threshold, zero, one);
        store(sent + at, total);
        store(sends + j * kPack + at, digit * value);
        spikes.v[v] = digit * digit;
      }
      if (counts) add_to_row(lanes.row(pack, count_row + j), spikes);
    };
    float* const drives = lanes.row(pack, rows.state + tables.offset);
    if (l == 0) {
      for (int64_t j = 0; j < layer.n_out; ++j) fire(j, load_pack(drives + j * kPack));
    } else {
      for_lane_currents(layer, takes, lanes.ids, n_ids, [&](int64_t j, Pack h) {
        for (int v = 0; v < kLaneVectors; ++v) h.v[v] = load(drives + j * kPack + v * Vec::lanes) + h.v[v];
        store_pack(drives + j * kPack, h);
        fire(j, h);
      });
    }
    n_ids = 0;
    for (int64_t j = 0; j < layer.n_out; ++j) {
      if (tables.values[row + j] > 0.0f) lanes.ids[n_ids++] = static_cast<uint32_t>(j);
    }
    count_row += layer.n_out;
    float* const sent = sends;
    sends = takes;
    takes = sent;
  }
  for_lane_currents(net.layers[net.n_layers - 1], takes, lanes.ids, n_ids,
                    [&](int64_t j, const Pack& h) { add_to_row(lanes.row(pack, rows.running + j), h); });
  store_pack(lanes.row(pack, rows.flags), beyond);
  store_pack(lanes.row(pack, rows.flags + 1), leaves);
}

// Lanes of a vector whose decision is certain: digits_are_certain of coded_exit.h, in the same order.
inline uint32_t lanes_certain(const NetworkView& net, const Lanes& lanes, const float* pack, int64_t t, int64_t at) {
  const CodeView& code = *net.code;
  const LaneRows& rows = lanes.rows;
  const int64_t l = net.n_layers - 2;
  const LayerView &hidden = net.layers[l], &last = net.layers[l + 1];
  const CodeLayerView& tables = code.layers[l];
  const float *running = pack + rows.running * kPack + at, *drives = pack + (rows.state + tables.offset) * kPack + at,
              *sents = pack + (rows.sent + tables.offset) * kPack + at;
  const Vec zero = broadcast(0.0f), terms = load(pack + rows.terms * kPack + at);
  const LaneBest best = lane_best(running, last.n_out);
  const int64_t width = panel_vectors(last, 0) * Vec::lanes;  // few outputs: one panel
  Vec worst[kLanesOutputs];
  for (int64_t b = 0; b < last.n_out; ++b) worst[b] = zero;
  for (int64_t j = 0; j < hidden.n_out; ++j) {
    const Vec drive = load(drives + j * kPack), sent = load(sents + j * kPack);
    const Vec drift = broadcast(tables.drift[t * hidden.padded + j]) + terms * broadcast(tables.rounding[j]);
    const Vec low = larger(drive - drift, zero) - sent, high = larger(drive + drift, zero) - sent;
    const float* weights = last.weights + j * width;
    Vec top = broadcast(weights[0]);
    for (int64_t b = 1; b < last.n_out; ++b) {
      top = choose(at_least(best.index, broadcast(static_cast<float>(b))), broadcast(weights[b]), top);
    }
    for (int64_t b = 0; b < last.n_out; ++b) {
      const Vec difference = top - broadcast(weights[b]);
      worst[b] = worst[b] + smaller(difference * low, difference * high);
    }
  }
  const Vec beyond = load(pack + rows.flags * kPack + at), leaves = load(pack + (rows.flags + 1) * kPack + at);
  uint32_t certain = bits(above(best.ordered, zero)) & ~bits(above(beyond + leaves, zero));
  for (int64_t b = 0; b < last.n_out; ++b) {
    const Vec place = broadcast(static_cast<float>(b));
    const uint32_t same = bits(at_least(best.index, place)) & bits(at_least(place, best.index));
    const Vec left = (best.first - load(running + b * kPack)) + worst[b];
    certain &= same | bits(above(left, broadcast(code.slack)));
  }
  return certain;
}

// Packs that run together, so that few samples are left alone at the end.
inline int64_t digits_packs(const NetworkView& net) {
  return net.code->exit == static_cast<int>(ExitKind::none) ? 1 : (128 + kPack - 1) / kPack;
}

template <bool Signed>
bool run_digits_lanes(const NetworkView& net, const Request& request, int64_t first, int64_t count, const Lanes& lanes,
                      const Interrupt& interrupt) {
  const CodeView& code = *net.code;
  const int64_t n_out = net.layers[net.n_layers - 1].n_out, size = lanes.rows.total * kPack;
  const int64_t together = digits_packs(net) * kPack;
  const int64_t moved = request.spike_counts ? lanes.rows.flags : lanes.rows.counts;  // and what is before `constant`
  int64_t samples[128 + kPack];                                                       // of every lane; -1: none
  const auto pack_of = [&](int64_t lane) { return lanes.packs + lane / kPack * size; };
  for (int64_t begin = 0; begin < count; begin += together) {
    int64_t lanes_used = count - begin < together ? count - begin : together, alive = lanes_used;
    for (int64_t i = 0; i < (lanes_used + kPack - 1) / kPack * kPack; ++i) {
      samples[i] = i < lanes_used ? first + begin + i : -1;
    }
    for (int64_t i = 0; i < lanes_used; i += kPack) {
      start_pack(net, request, samples + i, lanes_used - i < kPack ? lanes_used - i : kPack, lanes, pack_of(i));
    }
    for (int64_t t = 0; t < net.timesteps && alive > 0; ++t) {
      if (interrupt.poll(interrupt.context)) return false;
      const bool end = t + 1 == net.timesteps;
      for (int64_t p = 0; p * kPack < lanes_used; ++p) {
        float* const pack = lanes.packs + p * size;
        lanes_digits_step<Signed>(net, lanes, pack, t, request.spike_counts != nullptr);
        uint64_t stops = 0, certain = 0;
        for (int v = 0; v < kLaneVectors; ++v) {
          const int64_t at = v * Vec::lanes;
          if (code.exit == static_cast<int>(ExitKind::certified)) {
            certain |= static_cast<uint64_t>(lanes_certain(net, lanes, pack, t, at)) << at;
          } else if (code.exit == static_cast<int>(ExitKind::calibrated)) {
            const LaneBest best = lane_best(lanes.row(pack, lanes.rows.running) + at, n_out);
            stops |= static_cast<uint64_t>(bits(above(best.first - best.second, broadcast(code.bounds[t]))) &
                                           bits(above(best.ordered, broadcast(0.0f))))
                     << at;
          }
        }
        stops |= certain;
        if (!stops && !end) continue;
        for (int64_t i = 0; i < kPack; ++i) {
          int64_t& sample = samples[p * kPack + i];
          if (sample < 0 || (!end && !(stops >> i & 1u))) continue;
          finish_lane(net, request, sample, lanes, pack, i, t + 1, certain >> i & 1u);
          sample = -1;
          --alive;
        }
      }
      // The last lanes move where there is room, as soon as that saves a pack.
      if ((alive + kPack - 1) / kPack == (lanes_used + kPack - 1) / kPack) continue;
      int64_t hole = 0;
      for (int64_t from = lanes_used - 1; from >= alive; --from) {
        if (samples[from] < 0) continue;
        while (samples[hole] >= 0) ++hole;
        const float* source = pack_of(from) + from % kPack;
        float* target = pack_of(hole) + hole % kPack;
        for (int64_t r = 0; r < lanes.rows.constant; ++r) target[r * kPack] = source[r * kPack];
        for (int64_t r = lanes.rows.running; r < moved; ++r) target[r * kPack] = source[r * kPack];
        samples[hole] = samples[from];
        samples[from] = -1;
      }
      lanes_used = alive;
      for (int64_t i = alive; i < (alive + kPack - 1) / kPack * kPack; ++i) samples[i] = -1;
    }
  }
  return true;
}

}  // namespace
}  // namespace snnfast
