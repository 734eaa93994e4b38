// SPDX-License-Identifier: Apache-2.0
#include "cuda/plan.h"

#include <algorithm>

namespace snnfast::cuda {
namespace {

// Steps that a tile should have at least: the neurons' state goes to memory and back once a tile.
constexpr int64_t kTileSteps = 16;
// A list of events has ids of 16 bits, and one of them stands for none.
constexpr int64_t kMostInputs = 65535;
constexpr int64_t kMostPanels = 65535;
// Warps of a block of which several share a multiprocessor.
constexpr int64_t kSmallBlockWarps = 8;

int64_t divide_up(int64_t n, int64_t by) { return (n + by - 1) / by; }

// Hands out aligned pieces of one buffer. With a null base it only counts how much is needed.
struct Arena {
  char* base;
  int64_t used = 0;
  template <class T>
  T* take(int64_t count) {
    T* p = base ? reinterpret_cast<T*>(base + used) : nullptr;
    used += round_up(count * static_cast<int64_t>(sizeof(T)), 256);
    return p;
  }
};

// How many blocks share the samples of a panel when a multiprocessor holds one block: the number for which the busiest
// one has least to do.
int64_t best_split(int64_t rows, int64_t panels, int64_t multiprocessors) {
  int64_t best = 1, least = INT64_MAX;
  const int64_t most = std::min(rows, std::max<int64_t>(1, 8 * multiprocessors / panels + 1));
  for (int64_t split = 1; split <= most; ++split) {
    const int64_t each = divide_up(rows, split), waves = divide_up(panels * divide_up(rows, each), multiprocessors);
    // Fetching the panel costs about as much as one more row; few warps cannot hide how long fetching takes.
    const int64_t cost = waves * (std::max<int64_t>(each, 16) + 1);
    if (cost < least) {
      least = cost;
      best = split;
    }
  }
  return best;
}

}  // namespace

struct Plan::Workspace {
  float *mem, *syn;  // (rows, padded) of layer after layer
  float* total;      // (rows, padded) of the last layer
  float* current;    // (rows, padded) of the first layer
  float* next_spike;
  int32_t* answered;
  uint32_t* words;
  uint16_t* ids;
  int32_t* sizes;
  int64_t bytes;
};

void Plan::pack(const LayerSpec& layer, bool constant, bool fires) {
  PackedLayer p{};
  p.n_in = layer.n_in;
  p.n_out = layer.n_out;
  p.fires = fires;
  const bool wide_fits = constant || layer_shared_bytes(p.n_in, kWideLanes) <= device_.shared_bytes;
  p.lanes = p.n_out > 4 * kNarrowLanes && wide_fits ? kWideLanes : kNarrowLanes;
  p.shared = !constant && layer_shared_bytes(p.n_in, p.lanes) <= device_.shared_bytes;
  p.padded = round_up(p.n_out, 4 * p.lanes);
  p.weights = static_cast<int64_t>(packed_.size());
  const int64_t width = 4 * p.lanes, panels = p.padded / width, rows = p.n_in + 1;
  p.bias = p.weights + round_up(panels * rows * width, 64);
  packed_.resize(static_cast<size_t>(p.bias + round_up(p.padded, 64)), 0.0f);
  for (int64_t o = 0; o < p.n_out; ++o) {
    const int64_t at = position(o, p.lanes);
    float* column = packed_.data() + p.weights + at / width * rows * width + at % width;
    for (int64_t k = 0; k < p.n_in; ++k) column[k * width] = layer.weights[static_cast<size_t>(o * p.n_in + k)];
    if (!layer.bias.empty()) packed_[static_cast<size_t>(p.bias + at)] = layer.bias[static_cast<size_t>(o)];
  }
  if (fires) words_ = std::max(words_, p.padded / 32);
  if (!constant) capacity_ = std::max(capacity_, round_up(p.n_in, 4));
  padded_sum_ += p.padded;
  layers_.push_back(p);
}

void Plan::make_tiny(const NetworkSpec& spec) {
  const size_t last = spec.layers.size() - 1;
  tiny_ = (last == 1 || last == 2) && spec.encoding == Encoding::constant && !spec.split_inputs && !spec.bias_input &&
          !spec.last_layer_fires() && spec.neuron.alpha == 0.0f && spec.neuron.beta == 1.0f &&
          !spec.neuron.reset_to_zero;
  for (const LayerSpec& layer : spec.layers) tiny_ = tiny_ && layer.n_out <= kTinyWidth;
  if (!tiny_) return;
  Tiny& a = tiny_launch_;
  a.timesteps = spec.timesteps;
  a.n_in = static_cast<int32_t>(spec.layers[0].n_in);
  a.n_out = static_cast<int32_t>(spec.n_out());
  a.hidden = static_cast<int32_t>(last);
  a.delayed = spec.neuron.delayed;
  a.mean = spec.decoding == Decoding::mean_potential;
  a.threshold = spec.neuron.threshold;
  for (size_t l = 0; l < last; ++l) {
    std::fill_n(a.initial[l], spec.layers[l].n_out, spec.neuron.initial_membrane);
  }
  const auto transposed = [](const LayerSpec& layer, float* to, float* bias, int64_t width) {
    for (int64_t j = 0; j < layer.n_out; ++j) {
      for (int64_t k = 0; k < layer.n_in; ++k)
        to[k * width + j] = layer.weights[static_cast<size_t>(j * layer.n_in + k)];
    }
    std::copy(layer.bias.begin(), layer.bias.end(), bias);
  };
  tiny_first_ = static_cast<int64_t>(packed_.size());
  packed_.resize(packed_.size() + static_cast<size_t>(round_up(spec.layers[0].n_in * kTinyWidth, 64)), 0.0f);
  transposed(spec.layers[0], packed_.data() + tiny_first_, a.first_bias, kTinyWidth);
  if (last == 2) transposed(spec.layers[1], a.second, a.second_bias, kTinyWidth);
  transposed(spec.layers[last], a.last, a.last_bias, tiny_outputs(spec.n_out()));
}

Plan::Plan(const NetworkSpec& spec, const Device& device) : device_(device) {
  validate(spec);
  require(device.shared_bytes >= 0 && device.multiprocessors >= 1, "the device must have a multiprocessor");
  for (size_t l = 0; l < spec.layers.size(); ++l) {
    const LayerSpec& layer = spec.layers[l];
    const std::string name = "weights[" + std::to_string(l) + "]";
    const bool constant = l == 0 && spec.encoding == Encoding::constant;
    require(constant || layer.n_in <= kMostInputs, name + " must have at most " + std::to_string(kMostInputs) +
                                                       " columns on backend 'cuda', got " + std::to_string(layer.n_in));
    require(layer.n_out <= kMostPanels * 4 * kNarrowLanes,
            name + " must have at most " + std::to_string(kMostPanels * 4 * kNarrowLanes) +
                " rows on backend 'cuda', got " + std::to_string(layer.n_out));
  }
  spec_ = {spec.neuron,   spec.timesteps, spec.n_in(),       spec.features(),
           spec.encoding, spec.decoding,  spec.split_inputs, spec.bias_input};
  if (spec.code.kind != CodeKind::none) {
    make_coded(spec);
    return;
  }
  if (encodes_spikes()) words_ = divide_up(spec_.features, 32);
  for (size_t l = 0; l < spec.layers.size(); ++l) {
    const bool last = l + 1 == spec.layers.size();
    pack(spec.layers[l], l == 0 && !encodes_spikes(), !last || spec.last_layer_fires());
  }
  make_tiny(spec);
}

Plan::Cut Plan::cut(int64_t batch) const {
  const int64_t per_step = words_ * 4 + capacity_ * 2 + 4;
  const int64_t whole = std::min(spec_.timesteps, kTileSteps);
  const int64_t rows = std::clamp<int64_t>(device_.spike_bytes / (whole * per_step), 1, std::max<int64_t>(batch, 1));
  return {rows, std::clamp<int64_t>(device_.spike_bytes / (rows * per_step), 1, spec_.timesteps)};
}

Plan::Workspace Plan::lay_out(char* base, const Cut& cut) const {
  Arena arena{base};
  Workspace w{};
  w.mem = arena.take<float>(cut.rows * padded_sum_);
  w.syn = arena.take<float>(cut.rows * padded_sum_);
  w.total = arena.take<float>(cut.rows * layers_.back().padded);
  w.current = arena.take<float>(encodes_spikes() ? 0 : cut.rows * layers_[0].padded);
  w.next_spike = arena.take<float>(encodes_spikes() ? cut.rows * round_up(spec_.features, 32) : 0);
  w.answered = arena.take<int32_t>(cut.rows);
  w.words = arena.take<uint32_t>(cut.rows * cut.steps * words_);
  w.ids = arena.take<uint16_t>(cut.rows * cut.steps * capacity_);
  w.sizes = arena.take<int32_t>(cut.rows * cut.steps);
  w.bytes = arena.used;
  return w;
}

int64_t Plan::workspace_bytes(int64_t batch, bool simulate) const {
  require(batch >= 0, "batch must be at least 0, got " + std::to_string(batch));
  if (batch == 0 || (tiny_ && !simulate)) return 0;
  if (is_coded()) return coded_workspace(batch);
  return lay_out(nullptr, cut(batch)).bytes;
}

void Plan::run(const Request& request, const float* packed, void* workspace, void* stream) const {
  if (request.batch == 0) return;
  if (is_coded()) return run_coded(request, packed, workspace, stream);
  if (tiny_ && !request.spike_counts && !request.spikes && !request.potentials) {
    return run_tiny(request, packed, stream);
  }
  const Cut whole = cut(request.batch);
  const Workspace at = lay_out(static_cast<char*>(workspace), whole);
  for (int64_t first = 0; first < request.batch; first += whole.rows) {
    run_chunk(request, packed, at, {std::min(whole.rows, request.batch - first), whole.steps}, first, stream);
  }
}

void Plan::run_tiny(const Request& request, const float* packed, void* stream) const {
  Tiny a = tiny_launch_;
  a.observations = request.observations;
  a.output = request.output;
  a.first = packed + tiny_first_;
  a.batch = request.batch;
  tiny(a, stream);
}

void Plan::run_chunk(const Request& request, const float* packed, const Workspace& at, const Cut& cut, int64_t first,
                     void* stream) const {
  const Inputs inputs{
      request.observations, first,     cut.rows, static_cast<int32_t>(spec_.n_in), static_cast<int32_t>(spec_.features),
      spec_.split,          spec_.bias};
  if (!encodes_spikes()) {
    const PackedLayer& p = layers_[0];
    current({inputs, packed + p.weights, packed + p.bias, static_cast<int32_t>(p.lanes), static_cast<int32_t>(p.padded),
             at.current},
            stream);
  }
  for (int64_t t0 = 0; t0 < spec_.timesteps; t0 += cut.steps) {
    const int64_t steps = std::min(cut.steps, spec_.timesteps - t0);
    Bits bits{at.words, static_cast<int32_t>(divide_up(spec_.features, 32))};
    if (encodes_spikes()) {
      encode({inputs, spec_.encoding == Encoding::poisson, request.seed, request.first_sample, t0, steps, at.next_spike,
              request.input_counts, bits},
             stream);
    }
    for (size_t l = 0; l < layers_.size(); ++l) {
      const PackedLayer& p = layers_[l];
      Layer a{};
      a.lists = {at.ids, at.sizes, static_cast<int32_t>(round_up(p.n_in, 4)), static_cast<int32_t>(p.n_in)};
      if (l > 0 || encodes_spikes()) {
        compact({bits, a.lists, cut.rows * steps}, stream);
      } else {
        a.current = at.current;
      }
      bits = {at.words, static_cast<int32_t>(p.padded / 32)};
      a.bits = bits;
      a.rows = cut.rows;
      a.first_row = first;
      a.batch = request.batch;
      a.t0 = t0;
      a.steps = steps;
      run_layer(request, packed, at, l, a, stream);
    }
    if (spec_.decoding == Decoding::first_spike) {
      first_spike({bits, static_cast<int32_t>(n_out()), cut.rows, first, steps, t0 == 0, at.answered, request.output},
                  stream);
    }
  }
}

void Plan::run_layer(const Request& request, const float* packed, const Workspace& at, size_t index, Layer a,
                     void* stream) const {
  const PackedLayer& p = layers_[index];
  const bool last = index + 1 == layers_.size();
  const NeuronSpec& neuron = spec_.neuron;
  a.weights = packed + p.weights;
  a.bias = packed + p.bias;
  a.n_in = static_cast<int32_t>(p.n_in);
  a.n_out = static_cast<int32_t>(p.n_out);
  a.padded = static_cast<int32_t>(p.padded);
  a.lanes = static_cast<int32_t>(p.lanes);
  a.weights_in_shared = p.shared;
  a.rule = {neuron.delayed, p.fires, neuron.reset_to_zero, neuron.alpha != 0.0f, neuron.beta != 1.0f};
  a.constants = {neuron.alpha, neuron.beta, neuron.threshold};
  a.initial = last ? 0.0f : neuron.initial_membrane;
  a.timesteps = spec_.timesteps;
  int64_t before = 0;
  for (size_t l = 0; l < index; ++l) before += layers_[l].padded;
  a.mem = at.mem + before * a.rows;
  a.syn = at.syn + before * a.rows;
  if (request.spike_counts && p.fires) a.counts = request.spike_counts[index];
  if (request.spikes && p.fires) a.spikes = request.spikes[index];
  if (request.potentials) a.potentials = request.potentials[index];
  if (last && spec_.decoding == Decoding::spikes) a.spike_output = request.output;
  if (last && !p.fires) a.output = request.output;
  if (last && spec_.decoding == Decoding::mean_potential) a.total = at.total;

  const int64_t panels = p.padded / (4 * p.lanes);
  const bool large = p.shared && 3 * layer_shared_bytes(p.n_in, p.lanes) > device_.shared_bytes;
  int64_t splits;
  if (large) {
    splits = best_split(a.rows, panels, device_.multiprocessors);
  } else {
    splits = divide_up(a.rows, kSmallBlockWarps);
    // Every block fetches its panel, so there should not be many times more of them than can run at once.
    if (p.shared) splits = std::min(splits, std::max<int64_t>(1, 16 * device_.multiprocessors / panels));
  }
  a.rows_per_block = divide_up(a.rows, splits);
  // As many warps as there can be, but so that none idles while others take their last row.
  const int64_t most = !large ? kSmallBlockWarps : p.lanes == kWideLanes ? kWideWarps : kNarrowWarps;
  const int64_t turns = divide_up(a.rows_per_block, most);
  a.warps = static_cast<int32_t>(divide_up(a.rows_per_block, turns));
  layer(a, stream);
}

}  // namespace snnfast::cuda
