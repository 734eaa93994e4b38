// SPDX-License-Identifier: Apache-2.0
#include "cuda/plan.h"

#include <algorithm>
#include <cstring>

#include "core/float_mode.h"
#include "core/pack_slices.h"

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

// How many tiles of outputs the blocks of slices_panel_kernel should keep, and over how many blocks their samples
// should be spread: what gives the busiest multiprocessor, which holds one block, the least to multiply.
struct PanelShape {
  int64_t tiles, rows_per_block, warps;
};
PanelShape best_panel(int64_t rows, int64_t all_tiles, int64_t most_tiles, int64_t multiprocessors) {
  constexpr int64_t kSchedulers = 4;  // of a multiprocessor; each has its own tensor core
  const int64_t units = divide_up(rows, kPanelRows);
  PanelShape best{};
  int64_t least = INT64_MAX;
  for (int64_t tiles = 1; tiles <= std::min({all_tiles, most_tiles, int64_t{kPanelWarps}}); ++tiles) {
    const int64_t panels = divide_up(all_tiles, tiles);
    const int64_t each = divide_up(units, std::clamp<int64_t>(multiprocessors / panels, 1, units));
    const int64_t turns = divide_up(each, std::min(each, kPanelWarps / tiles)), at_once = divide_up(each, turns);
    const int64_t waves = divide_up(panels * divide_up(units, each), multiprocessors);
    // Two warps of a scheduler take as long as one, which waits for what it fetches.
    const auto turn = [&](int64_t warps) { return std::max<int64_t>(2, divide_up(warps, kSchedulers)); };
    const int64_t rest = each - (turns - 1) * at_once;
    const int64_t cost = waves * ((turns - 1) * turn(tiles * at_once) + turn(tiles * rest));
    if (cost > least) continue;  // as good: rather more tiles, whose warps read the same spikes
    least = cost;
    best = {tiles, each * kPanelRows, tiles * at_once};
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
  uint32_t* words[2];  // of the layers in turn; the same where none reads them from there
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

// Weights as digits of eight bits, if the layer has such and a block has room for them.
bool Plan::pack_slices(const LayerSpec& layer, bool fires, bool exact) {
  const int64_t tiles = divide_up(layer.n_out, kTensorOutputs);
  if (!device_.tensor_cores || tiles > kMostPanels) return false;
  if (steps_shared_bytes(layer.n_in, kFewestSlices) > device_.shared_bytes) return false;
  const std::optional<SlicedLayer> sliced = slice_layer(layer, exact);
  if (!sliced || steps_shared_bytes(layer.n_in, sliced->slices) > device_.shared_bytes) return false;
  PackedLayer p{};
  p.n_in = layer.n_in;
  p.n_out = layer.n_out;
  p.fires = fires;
  p.slices = sliced->slices;
  p.padded = round_up(p.n_out, 32);
  const int64_t words = divide_up(p.n_in, 32);
  const int64_t bytes = tiles * words * p.slices * kTensorOutputs * 32;
  p.weights = static_cast<int64_t>(packed_.size());
  p.scale = p.weights + round_up(bytes / 4, 64);
  p.bias = p.scale + round_up(p.padded, 64);
  packed_.resize(static_cast<size_t>(p.bias + round_up(p.padded, 64)), 0.0f);
  std::vector<int8_t> digits(static_cast<size_t>(bytes));
  for (int64_t tile = 0; tile < tiles; ++tile) {
    for (int64_t part = 0; part < 16 * kTensorOutputs * 2; ++part) {  // of 32 threads, each 16 bytes
      const int64_t thread = part / 16, n = part % 16 / 8, r = part % 8 / 4, i = part % 4;
      const int64_t o = tile * kTensorOutputs + slice_output(static_cast<int>(n), static_cast<int>(thread / 4));
      if (o >= p.n_out) continue;
      const IntegerRow& row = sliced->rows[static_cast<size_t>(o)];
      for (int64_t word = 0; word < words; ++word) {
        const int64_t k =
            word * 32 + slice_input(static_cast<int>(r), static_cast<int>(thread % 4), static_cast<int>(i));
        if (k >= p.n_in) continue;
        for (int slice = 0; slice < p.slices; ++slice) {
          digits[static_cast<size_t>(((tile * words + word) * p.slices + slice) * 512 + part)] =
              digit(row.integers[static_cast<size_t>(k)], p.slices, p.slices - 1 - slice);
        }
      }
    }
  }
  std::memcpy(packed_.data() + p.weights, digits.data(), digits.size());
  for (int64_t o = 0; o < p.n_out; ++o) {
    packed_[static_cast<size_t>(p.scale + o)] =
        static_cast<float>(std::ldexp(1.0, sliced->rows[static_cast<size_t>(o)].exponent));
    if (!layer.bias.empty()) packed_[static_cast<size_t>(p.bias + o)] = layer.bias[static_cast<size_t>(o)];
  }
  if (fires) words_ = std::max(words_, p.padded / 32);
  padded_sum_ += p.padded;
  ++sliced_;
  layers_.push_back(p);
  return true;
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
  transposed(spec.layers[last], a.last, a.last_bias, tiny_outputs(tiny_usual(a.delayed, a.threshold), a.n_out));
}

Plan::Plan(const NetworkSpec& spec, const Device& device, bool exact) : device_(device) {
  const StandardFloatMode standard;  // slices are made of denormals too
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
  make_tiny(spec);
  if (encodes_spikes()) words_ = divide_up(spec_.features, 32);
  for (size_t l = 0; l < spec.layers.size(); ++l) {
    const bool last = l + 1 == spec.layers.size(), fires = !last || spec.last_layer_fires();
    // Not for a tiny network, whose output must be the same with records.
    if (l > 0 && !tiny_ && pack_slices(spec.layers[l], fires, exact)) continue;
    pack(spec.layers[l], l == 0 && !encodes_spikes(), fires);
  }
  if (sliced_ > 0) words_ = round_up(words_, 4);  // tiled rows of spikes have words in fours
}

Plan::Cut Plan::cut(int64_t batch) const {
  const int64_t per_step = words_ * (sliced_ > 0 ? 8 : 4) + capacity_ * 2 + 4;
  const int64_t tile = std::min(spec_.timesteps, kTileSteps) * per_step;
  const int64_t once = encodes_spikes() ? round_up(spec_.features, 32) : layers_[0].padded;
  const int64_t state = 4 * (2 * padded_sum_ + layers_.back().padded + once + 1);  // lay_out's, of a sample
  const int64_t rows =
      std::clamp<int64_t>(device_.workspace_bytes / std::max(tile, state), 1, std::max<int64_t>(batch, 1));
  const int64_t laid_out = sliced_ > 0 ? round_up(rows, 16) : rows;  // tiled spikes come in sixteen rows
  return {rows, std::clamp<int64_t>(device_.workspace_bytes / (laid_out * per_step), 1, spec_.timesteps)};
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
  const int64_t tiled_rows = sliced_ > 0 ? round_up(cut.rows, 16) : cut.rows;
  w.words[0] = arena.take<uint32_t>(tiled_rows * cut.steps * words_);
  w.words[1] = sliced_ > 0 ? arena.take<uint32_t>(tiled_rows * cut.steps * words_) : w.words[0];
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
    // The first layer writes to words[1], so what it reads is in the other.
    Bits bits{at.words[0], static_cast<int32_t>(divide_up(spec_.features, 32)), false};
    if (encodes_spikes()) {
      encode({inputs, spec_.encoding == Encoding::poisson, request.seed, request.first_sample, t0, steps, at.next_spike,
              request.input_counts, bits},
             stream);
    }
    for (size_t l = 0; l < layers_.size(); ++l) {
      const PackedLayer& p = layers_[l];
      Layer a{};
      if (p.slices > 0) {
        a.input = bits;
      } else if (l > 0 || encodes_spikes()) {
        a.lists = {at.ids, at.sizes, static_cast<int32_t>(round_up(p.n_in, 4)), static_cast<int32_t>(p.n_in)};
        compact({bits, a.lists, cut.rows * steps}, stream);
      } else {
        a.current = at.current;
      }
      const bool tiled = l + 1 < layers_.size() && layers_[l + 1].slices > 0;
      const int64_t words = p.padded / 32;
      bits = {at.words[(l + 1) % 2], static_cast<int32_t>(tiled ? round_up(words, 4) : words), tiled};
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

  if (p.slices > 0) {
    a.digits = reinterpret_cast<const int8_t*>(a.weights);
    a.scale = packed + p.scale;
    a.slices = p.slices;
    shape_slices(a);
    return slices(a, stream);
  }
  shape_events(p, a);
  layer(a, stream);
}

void Plan::shape_slices(Layer& a) const {
  const int64_t tiles = divide_up(a.n_out, kTensorOutputs);
  if (is_plain(a) && a.rule.fires) {
    const int64_t most = device_.shared_bytes / panel_shared_bytes(a.n_in, a.slices);
    const PanelShape shape = best_panel(a.rows, tiles, most, device_.multiprocessors);
    a.panel_tiles = static_cast<int32_t>(shape.tiles);
    a.rows_per_block = shape.rows_per_block;
    a.warps = static_cast<int32_t>(shape.warps);
    return;
  }
  // Every block fetches its tile, so there should not be many times more of them than can run at once.
  const int64_t splits = std::min(divide_up(a.rows, 16), std::max<int64_t>(1, 16 * device_.multiprocessors / tiles));
  a.rows_per_block = round_up(divide_up(a.rows, splits), 16);
}

void Plan::shape_events(const PackedLayer& p, Layer& a) const {
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
}

}  // namespace snnfast::cuda
