// SPDX-License-Identifier: Apache-2.0
// Small networks with a code, a sample per lane: every number that a neuron carries is a row of samples, and a weight
// serves all of them. There are no lists of one sample's spikes, no branches on them and no waiting for its chain of
// additions; in exchange inputs are added, as zeros, for samples in which they are silent, which changes no bit of a
// sum that began at +0. Only those that are silent in all samples may be left out.
#pragma once

#include "cpu/coded_sample.h"

namespace snnfast {
namespace {

constexpr int64_t kPack = kLaneVectors * Vec::lanes;
// Packs of digits or radix whose samples may stop run together, so that few samples are left alone at the end.
constexpr int64_t kPacksTogether = (128 + kPack - 1) / kPack;
// Steps of rate neurons that a layer runs before the next one takes over.
constexpr int64_t kLanesTile = 8;

struct Pack {
  Vec v[kLaneVectors];
};

SNNFAST_INLINE Pack load_pack(const float* p) {
  Pack x;
  for (int v = 0; v < kLaneVectors; ++v) x.v[v] = load(p + v * Vec::lanes);
  return x;
}

SNNFAST_INLINE void store_pack(float* p, const Pack& x) {
  for (int v = 0; v < kLaneVectors; ++v) store(p + v * Vec::lanes, x.v[v]);
}

SNNFAST_INLINE void fill_row(float* p, float value) {
  for (int v = 0; v < kLaneVectors; ++v) store(p + v * Vec::lanes, broadcast(value));
}

// Where the rows of a pack are, each of kPack numbers.
struct LaneRows {
  int64_t state = 0, sent, constant, output, weighted, running, terms, flags, counts, total;
  int64_t widest = 0;

  explicit LaneRows(const NetworkView& net) {
    const int64_t last = net.layers[net.n_layers - 1].n_out;
    int64_t hidden = 0;
    for (int64_t l = 0; l < net.n_layers; ++l) {
      if (l + 1 < net.n_layers) hidden += net.layers[l].n_out;
      if (net.layers[l].padded > widest) widest = net.layers[l].padded;
    }
    sent = state + net.code->state;
    const bool sends = net.code->signed_spikes || net.code->kind == static_cast<int>(CodeKind::digits);
    constant = sent + (sends ? net.code->state : 0);
    output = constant + net.layers[0].n_out;
    weighted = output + last;
    running = weighted + last;
    terms = running + last;
    flags = terms + 1;
    counts = flags + net.n_layers - 1;
    total = counts + hidden;
  }
};

// Whether what is turned, so that there is a sample per lane, is the features: where they are no more than the
// currents.
inline bool turns_features(const LayerView& first) { return first.n_in <= first.n_out; }

// Memory of a thread for one call.
struct Lanes {
  explicit Lanes(const NetworkView& net) : rows(net) {}

  LaneRows rows;
  // Rows (widest), of rate for a tile of steps: what a layer has sent, and what the one before had.
  float *first = nullptr, *second = nullptr;
  float* drives = nullptr;    // of rate: the same, a layer's currents
  float* currents = nullptr;  // (kPack, padded first layer)
  float* features = nullptr;  // (kPack, n_in)
  float* turned = nullptr;    // (n_in, kPack): the same, of rate with an exit where turns_features says so
  uint32_t* ids = nullptr;    // inputs that may not be zero; between layers others may work in it
  float* numbers = nullptr;   // of radix with an exit, a block per pack: the last hidden layer's, all bits
  int32_t* late = nullptr;    // (kCodedBlock): of rate, samples that did not stop early
  float* packs = nullptr;

  float* row(float* pack, int64_t index) const { return pack + index * kPack; }
};

inline Lanes take_lanes(Arena& arena, const NetworkView& net, int64_t packs) {
  Lanes lanes(net);
  const bool rate = net.code->kind == static_cast<int>(CodeKind::rate);
  const int64_t tile = rate ? kLanesTile : 1;
  lanes.first = arena.take<float>((tile * lanes.rows.widest + 4) * kPack);
  lanes.second = arena.take<float>((tile * lanes.rows.widest + 4) * kPack);
  lanes.drives = rate ? arena.take<float>(tile * lanes.rows.widest * kPack) : nullptr;
  lanes.currents = arena.take<float>(kPack * net.layers[0].padded);
  lanes.features = features_are_observations(net) ? nullptr : arena.take<float>(kPack * net.layers[0].n_in);
  const bool leaves = rate && net.code->exit != static_cast<int>(ExitKind::none);
  if (leaves && turns_features(net.layers[0])) lanes.turned = arena.take<float>(net.layers[0].n_in * kPack);
  lanes.ids = arena.take<uint32_t>(lanes.rows.widest);
  lanes.late = leaves ? arena.take<int32_t>(kCodedBlock) : nullptr;
  if (packs > 1 && net.code->kind == static_cast<int>(CodeKind::radix)) {
    lanes.numbers = arena.take<float>(packs * net.layers[net.n_layers - 1].n_in * kPack);
  }
  lanes.packs = arena.take<float>(packs * lanes.rows.total * kPack);
  return lanes;
}

// Make the compiler believe that a pointer points elsewhere now. AVX-512 multiplies by a number in memory, which is
// then loaded for every product; to keep it in a register for a second one takes an operation on AMD's Zen 4 (half as
// much again in all), and only a load on its Zen 5, which is short of those (a fifth of the time of copies less).
SNNFAST_INLINE void unknown_again(const float*& pointer) {
#if defined(__AVX512F__) && defined(__AVX512DQ__)
  __asm__("" : "+r"(pointer));
#else
  (void)pointer;
#endif
}

SNNFAST_INLINE bool loads_weights_again(const NetworkView& net) { return Vec::lanes == 16 && net.slow_broadcasts; }

// Where the weights of an output and its neighbours are: those of the next input `width` further on.
struct LaneWeights {
  const float* first;
  int64_t width;
};

// What arrives at Q outputs: `add` of the sum so far, a weight and what an input has sent, inputs ascending.
// FromMemory: weights are loaded for every product.
template <bool FromMemory, int Q, class Add>
SNNFAST_INLINE void lane_sums(LaneWeights weights, const float* values, const uint32_t* ids, int64_t n_ids, Add&& add,
                              Pack (&h)[Q]) {
#pragma GCC unroll 8
  for (int q = 0; q < Q; ++q) {
    for (int v = 0; v < kLaneVectors; ++v) h[q].v[v] = broadcast(0.0f);
  }
  for (int64_t i = 0; i < n_ids; ++i) {
    const int64_t id = ids[i];
    const Pack x = load_pack(values + id * kPack);
    const float* w = weights.first + id * weights.width;
#pragma GCC unroll 2
    for (int v = 0; v < kLaneVectors; ++v) {
      if constexpr (FromMemory) unknown_again(w);
#pragma GCC unroll 8
      for (int q = 0; q < Q; ++q) h[q].v[v] = add(h[q].v[v], broadcast(w[q]), x.v[v]);
    }
  }
}

// Call f(output, sum) for every output. `weights(j)`: of output j; those of outputs that do not exist are zeros.
template <bool FromMemory, class Weights, class Add, class F>
SNNFAST_INLINE void for_lane_sums(int64_t n_out, Weights&& weights, const float* values, const uint32_t* ids,
                                  int64_t n_ids, Add&& add, F&& f) {
  constexpr int most = Vec::lanes == 16 ? kLaneOutputs : kLaneOutputs / 2;  // with as many sums as registers hold
  int64_t j = 0;
  for (; j + most / 2 < n_out; j += most) {
    Pack h[most];
    lane_sums<FromMemory>(weights(j), values, ids, n_ids, add, h);
    for (int q = 0; q < most && j + q < n_out; ++q) f(j + q, h[q]);
  }
  if (most > 4 && j + 2 < n_out) {
    Pack h[4];
    lane_sums<FromMemory>(weights(j), values, ids, n_ids, add, h);
    for (int q = 0; q < 4 && j + q < n_out; ++q) f(j + q, h[q]);
    j += 4;
  }
  for (; j < n_out; j += 2) {
    Pack h[2];
    lane_sums<FromMemory>(weights(j), values, ids, n_ids, add, h);
    for (int q = 0; q < 2 && j + q < n_out; ++q) f(j + q, h[q]);
  }
}

// A layer's currents, with their biases, which come last: a row per output. Fused: where no product of a weight and
// what an input has sent is rounded, so that a fused multiply-add gives the same bits.
template <bool Fused, bool FromMemory>
__attribute__((noinline)) void lane_currents(const LayerView& layer, const float* values, const uint32_t* ids,
                                             int64_t n_ids, float* rows) {
  const auto weights = [&](int64_t j) {
    const int64_t panel = j / kPanel;
    return LaneWeights{layer.weights + panel * kPanel * layer.n_in + (j - panel * kPanel),
                       panel_vectors(layer, panel) * Vec::lanes};
  };
  const auto add = [](Vec sum, Vec weight, Vec x)
                       SNNFAST_ALWAYS { return Fused ? multiply_add(weight, x, sum) : sum + weight * x; };
  for_lane_sums<FromMemory>(layer.n_out, weights, values, ids, n_ids, add, [&](int64_t j, Pack h) SNNFAST_ALWAYS {
    const Vec bias = broadcast(layer.bias[j]);
    for (int v = 0; v < kLaneVectors; ++v) h.v[v] = h.v[v] + bias;
    store_pack(rows + j * kPack, h);
  });
}

// The quickest one here.
using LaneCurrents = void (*)(const LayerView& layer, const float* values, const uint32_t* ids, int64_t n_ids,
                              float* rows);
template <bool Fused>
SNNFAST_INLINE LaneCurrents quickest_lane_currents(const NetworkView& net) {
  return loads_weights_again(net) ? lane_currents<Fused, true> : lane_currents<Fused, false>;
}

inline int64_t all_inputs(int64_t n, uint32_t* ids) {
  for (int64_t i = 0; i < n; ++i) ids[i] = static_cast<uint32_t>(i);
  return n;
}

// The features of a sample that a lane is to have; `lane`: whose room for them is used.
inline const float* lane_features(const NetworkView& net, const Request& request, int64_t sample, const Lanes& lanes,
                                  int64_t lane) {
  const float* x = request.observations + sample * net.n_in;
  if (!lanes.features) return x;
  float* const features = lanes.features + lane * net.layers[0].n_in;
  write_features(net, x, features);
  return features;
}

// The first layer's currents, from rows of features. Writes the first of `ids`.
inline void turned_currents(const NetworkView& net, const float* features, uint32_t* ids, float* rows) {
  const LayerView& layer = net.layers[0];
  quickest_lane_currents<false>(net)(layer, features, ids, all_inputs(layer.n_in, ids), rows);
}

// The first layer's currents of n samples become the lanes of rows; further lanes hold what they like. Works in
// `lanes.first` and writes the first of `lanes.ids`.
inline void lane_inputs(const NetworkView& net, const Request& request, const int64_t* samples, int64_t n,
                        const Lanes& lanes, float* rows) {
  const LayerView& layer = net.layers[0];
  const float* inputs[kPack] = {};
  for (int64_t i = 0; i < n; ++i) inputs[i] = lane_features(net, request, samples[i], lanes, i);
  if (turns_features(layer)) {
    float* const values = lanes.first;
    __builtin_memset(values, 0, static_cast<size_t>(layer.n_in * kPack) * sizeof(float));
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t k = 0; k < layer.n_in; ++k) values[k * kPack + i] = inputs[i][k];
    }
    return turned_currents(net, values, lanes.ids, rows);
  }
  float* currents[kPack] = {};
  for (int64_t i = 0; i < n; ++i) currents[i] = lanes.currents + i * layer.padded;
  constant_currents(layer, inputs, currents, n, 0, layer.panels);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < layer.n_out; ++j) rows[j * kPack + i] = currents[i][j];
  }
}

// Where the first layer's currents go: digits keep them as drives.
inline int64_t input_row(const NetworkView& net, const LaneRows& rows) {
  const bool digits = net.code->kind == static_cast<int>(CodeKind::digits);
  return digits ? rows.state + net.code->layers[0].offset : rows.constant;
}

// Call f(row, number) for every row that a sample starts with anything but 0 in, its first layer's current excepted.
template <class F>
SNNFAST_INLINE void for_starts(const NetworkView& net, const LaneRows& rows, F&& f) {
  const CodeView& code = *net.code;
  const bool digits = code.kind == static_cast<int>(CodeKind::digits);
  for (int64_t l = 0; l + 1 < net.n_layers; ++l) {
    const LayerView& layer = net.layers[l];
    const CodeLayerView& tables = code.layers[l];
    const int64_t at = rows.state + tables.offset;
    if (tables.starts) {
      for (int64_t j = 0; j < layer.n_out; ++j) f(at + j, tables.starts[j]);
    } else if (digits && l > 0) {
      for (int64_t j = 0; j < layer.n_out; ++j) f(at + j, layer.bias[j] + 0.0f);
    }
  }
  if (!digits) return;
  // What nothing arrives at stays as it is, so here already -0 must become +0, as by adding nothing.
  const LayerView& last = net.layers[net.n_layers - 1];
  for (int64_t j = 0; j < last.n_out; ++j) f(rows.running + j, last.bias[j] + 0.0f);
}

// Put samples into the lanes of a pack; what further lanes hold is of no use. Layers in turns start from currents
// alone.
__attribute__((noinline)) inline void start_pack(const NetworkView& net, const Request& request, const int64_t* samples,
                                                 int64_t n, const Lanes& lanes, float* pack) {
  const LaneRows& rows = lanes.rows;
  const int kind = net.code->kind;
  const bool turns = kind == static_cast<int>(CodeKind::staged) || kind == static_cast<int>(CodeKind::radix);
  const int64_t from = turns ? rows.flags : 0;
  __builtin_memset(lanes.row(pack, from), 0, static_cast<size_t>((rows.total - from) * kPack) * sizeof(float));
  if (!turns) for_starts(net, rows, [&](int64_t row, float number) { fill_row(pack + row * kPack, number); });
  lane_inputs(net, request, samples, n, lanes, pack + input_row(net, rows) * kPack);
  if (!net.code->largest) return;
  for (int64_t i = 0; i < n; ++i) {
    const float* const features =
        lanes.features ? lanes.features + i * net.layers[0].n_in : request.observations + samples[i] * net.n_in;
    lanes.row(pack, rows.terms)[i] = first_terms(net, features);
  }
}

// Put samples into those lanes of a pack whose bit is set in `fresh`. Where features are turned they stay in
// `lanes.turned`, and all lanes' currents are computed anew: those of lanes that have a sample already are the same
// again.
inline void start_lanes(const NetworkView& net, const Request& request, const int64_t* samples, uint64_t fresh,
                        const Lanes& lanes, float* pack) {
  const LaneRows& rows = lanes.rows;
  const LayerView& layer = net.layers[0];
  alignas(64) float chosen[kPack];
  for (int64_t i = 0; i < kPack; ++i) chosen[i] = static_cast<float>(fresh >> i & 1u);
  const auto put = [&](int64_t row, float number) {
    float* const at = pack + row * kPack;
    for (int v = 0; v < kLaneVectors; ++v) {
      const auto here = above(load(chosen + v * Vec::lanes), broadcast(0.0f));
      store(at + v * Vec::lanes, choose(here, broadcast(number), load(at + v * Vec::lanes)));
    }
  };
  for (int64_t r = rows.sent; r < rows.constant; ++r) put(r, 0.0f);
  const int64_t end = request.spike_counts ? rows.total : rows.flags;
  for (int64_t r = rows.output; r < end; ++r) put(r, 0.0f);
  for_starts(net, rows, put);
  float* const inputs = pack + input_row(net, rows) * kPack;
  for (uint64_t left = fresh; left; left &= left - 1) {
    const int64_t i = __builtin_ctzll(left);
    const float* const x = lane_features(net, request, samples[i], lanes, i);
    if (lanes.turned) {
      for (int64_t k = 0; k < layer.n_in; ++k) lanes.turned[k * kPack + i] = x[k];
      continue;
    }
    constant_currents(layer, &x, &lanes.currents, 1, 0, layer.panels);
    for (int64_t j = 0; j < layer.n_out; ++j) inputs[j * kPack + i] = lanes.currents[j];
  }
  if (lanes.turned) turned_currents(net, lanes.turned, lanes.ids, inputs);
}

SNNFAST_INLINE uint64_t first_lanes(int64_t n) { return n < 64 ? (uint64_t{1} << n) - 1 : ~uint64_t{0}; }

// Samples that move to other lanes of a few packs, those between the same two vectors at once.
struct LaneMoves {
  struct Move {
    int64_t from, to;                       // vectors, counted through all packs
    alignas(64) int32_t which[Vec::lanes];  // the lane that comes to each; -1: none
  };
  Move moves[2 * kPacksTogether * kLaneVectors];
  int64_t n = 0;

  void add(int64_t from, int64_t to) {
    constexpr int64_t L = Vec::lanes;
    if (n == 0 || moves[n - 1].from != from / L || moves[n - 1].to != to / L) {
      Move& next = moves[n++];
      next.from = from / L;
      next.to = to / L;
      for (int32_t& which : next.which) which = -1;
    }
    moves[n - 1].which[to % L] = static_cast<int32_t>(from % L);
  }

  // In these rows of every pack; a pack has `size` numbers.
  void apply(float* packs, int64_t size, int64_t row, int64_t end) const {
    const auto place = [&](int64_t vector) {
      return packs + vector / kLaneVectors * size + vector % kLaneVectors * Vec::lanes;
    };
    for (int64_t i = 0; i < n; ++i) {
      const float* const from = place(moves[i].from);
      float* const to = place(moves[i].to);
      const Integers which = load(moves[i].which);
      for (int64_t r = row; r < end; ++r) {
        store(to + r * kPack, pick_lanes(which, load(from + r * kPack), load(to + r * kPack)));
      }
    }
  }
};

// The last samples of a few packs move where there is room, as soon as that saves a pack. `busy`: lanes that have a
// sample, of every pack; `owners`: whose every lane is; `used`: up to where there are any. Returns that.
inline int64_t close_up(uint64_t* busy, int64_t* owners, int64_t used, LaneMoves& moves) {
  static_assert(kPack <= 64, "a word has a bit for every lane");
  moves.n = 0;
  int64_t alive = 0;
  for (int64_t p = 0; p * kPack < used; ++p) alive += __builtin_popcountll(busy[p]);
  if ((alive + kPack - 1) / kPack == (used + kPack - 1) / kPack) return used;
  int64_t hole = 0;
  for (int64_t from = used - 1; from >= alive; --from) {
    if (!(busy[from / kPack] >> from % kPack & 1u)) continue;
    while (busy[hole / kPack] >> hole % kPack & 1u) ++hole;
    busy[hole / kPack] |= uint64_t{1} << hole % kPack;
    busy[from / kPack] &= ~(uint64_t{1} << from % kPack);
    owners[hole] = owners[from];
    moves.add(from, hole);
  }
  return alive;
}

// A sample has run its last step.
inline void finish_lane(const NetworkView& net, const Request& request, int64_t sample, const Lanes& lanes,
                        const float* pack, int64_t lane, int64_t steps, bool certain) {
  const LaneRows& rows = lanes.rows;
  const float* const at = pack + lane;
  const int64_t n_out = net.layers[net.n_layers - 1].n_out;
  for (int64_t j = 0; j < n_out; ++j) request.output[sample * n_out + j] = at[(rows.running + j) * kPack];
  if (request.steps) request.steps[sample] = static_cast<float>(steps);
  if (request.certified) request.certified[sample] = certain ? 1.0f : 0.0f;
  if (request.saturated) {
    float above = 0.0f;
    for (int64_t r = rows.flags; r < rows.counts; ++r) above = larger(above, at[r * kPack]);
    request.saturated[sample] = above;
  }
  if (!request.spike_counts) return;
  int64_t row = rows.counts;
  for (int64_t l = 0; l + 1 < net.n_layers; ++l) {
    const int64_t n = net.layers[l].n_out;
    for (int64_t j = 0; j < n; ++j) request.spike_counts[l][sample * n + j] = at[(row + j) * kPack];
    row += n;
  }
}

SNNFAST_INLINE void add_to_row(float* row, const Pack& x) {
  for (int v = 0; v < kLaneVectors; ++v) store(row + v * Vec::lanes, load(row + v * Vec::lanes) + x.v[v]);
}

// The largest and the second largest output, and the first place of the largest, of every lane of a vector. All numbers
// in `ordered` lanes. As best_of of core/best.h.
struct LaneBest {
  Vec first, second, index, ordered;  // ordered: 1 or 0
};

SNNFAST_INLINE LaneBest lane_best(const float* outputs, int64_t n) {
  const Vec zero = broadcast(0.0f), one = broadcast(1.0f);
  LaneBest best{load(outputs), broadcast(-__builtin_huge_valf()), zero, zero};
  best.ordered = keep_where(at_least(best.first, best.first), one);
  for (int64_t j = 1; j < n; ++j) {
    const Vec x = load(outputs + j * kPack);
    best.ordered = keep_where(at_least(x, x), best.ordered);
    const auto wins = above(x, best.first);
    best.second = choose(wins, best.first, choose(above(x, best.second), x, best.second));
    best.first = choose(wins, x, best.first);
    best.index = choose(wins, broadcast(static_cast<float>(j)), best.index);
  }
  return best;
}

}  // namespace
}  // namespace snnfast
