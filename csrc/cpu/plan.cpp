// SPDX-License-Identifier: Apache-2.0
#include "cpu/plan.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <new>
#include <thread>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "core/float_mode.h"
#include "core/pack_slices.h"
#include "cpu/dispatch.h"
#include "cpu/segments.h"
#include "cpu/thread_pool.h"

namespace snnfast {
namespace {

// Scratch memory of a block, if every neuron fired always; at the rates that occur (10-20 %) a fraction of it is
// touched. Large on purpose: the more samples share a block, the fewer times a large layer's weights are streamed.
constexpr int64_t kBlockBytes = 1 << 23;
constexpr int64_t kTileSpikes = 1 << 17;  // of a tile, if its widest layer fired always
// A batch that takes less time than this on one thread stays there: in a virtual machine it takes up to 50 us to wake a
// second one. How long a sample takes is guessed at first and measured then, where there are enough samples for a look
// at the clock to cost nothing.
constexpr double kParallelNanoseconds = 1.2e5;
constexpr double kWorkPerNanosecond = 6.0, kTablesWorkPerNanosecond = 24.0;  // see Plan::work
constexpr int64_t kMeasuredBatch = 32;
constexpr int64_t kTableBlock = 256;
constexpr int64_t kTrainedBatch = 8;    // fewer samples may go one by one, and a group of few has no use for trains
constexpr int64_t kTableGroup = 16;     // blocks of whole groups, of any instruction set's
constexpr int64_t kLanesTogether = 32;  // samples that fill the lanes of every instruction set

constexpr int64_t kMostSum = INT32_MAX;  // of integers: sums may wrap, but the whole one must fit
constexpr int64_t kMostInputsInDoubt = 32768;

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Scratch memory of a thread, lent for one block. It is kept from call to call, so that small batches allocate nothing.
// A call within a call (a signal handler of Python's that runs a network while we poll) gets memory of its own.
//
// A key instead of `thread_local`: that, touched for the first time by a thread that finds no memory left, aborts the
// process; a key reports it. For the same reason nothing is thrown here: a thread's first exception needs memory too.
class Scratch {
 public:
  explicit Scratch(int64_t bytes) {
    static const Key key;
    Kept* kept = key.made ? static_cast<Kept*>(pthread_getspecific(key.key)) : nullptr;
    if (kept && !kept->lent && kept->size < bytes) {
      std::free(kept);
      pthread_setspecific(key.key, nullptr);
      kept = nullptr;
    }
    if (kept && !kept->lent) {
      buffer_ = kept;
    } else {
      buffer_ = static_cast<Kept*>(std::aligned_alloc(64, static_cast<size_t>(kHeader + round_up(bytes, 64))));
      if (!buffer_) return;
      buffer_->size = bytes;
      own_ = kept || !key.made || pthread_setspecific(key.key, buffer_) != 0;
    }
    buffer_->lent = true;
  }
  ~Scratch() {
    if (own_) {
      std::free(buffer_);
    } else if (buffer_) {
      buffer_->lent = false;
    }
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  // Null if there was no memory.
  char* data() const { return buffer_ ? reinterpret_cast<char*>(buffer_) + kHeader : nullptr; }

 private:
  struct Kept {  // at the head of the memory itself
    int64_t size;
    bool lent;
  };
  struct Key {
    pthread_key_t key = 0;
    const bool made = pthread_key_create(&key, std::free) == 0;
  };
  static constexpr int64_t kHeader = 64;
  static_assert(sizeof(Kept) <= kHeader);
  Kept* buffer_ = nullptr;
  bool own_ = false;
};

using RunBlock = bool (*)(const NetworkView&, const Request&, int64_t, int64_t, char*, const Interrupt&);

// One call of Plan::run, as its threads see it.
struct Job {
  const Request& request;
  const Interrupt& caller;
  int64_t block;
  RunBlock run;
  std::thread::id calling_thread = std::this_thread::get_id();
  std::chrono::nanoseconds time{0};  // of the calling thread, for so many samples
  int64_t samples = 0;
  std::atomic<bool> stop{false};
  std::atomic<bool> no_memory{false};
};

// Only the calling thread may ask (it may need the interpreter for it); the others look at its answer.
bool poll_job(void* context) {
  Job& job = *static_cast<Job*>(context);
  if (std::this_thread::get_id() == job.calling_thread && job.caller.poll(job.caller.context)) job.stop.store(true);
  return job.stop.load(std::memory_order_relaxed);
}

// Whether no membrane can come near the largest float in so many steps, each with every input: beyond it the canonical
// one would stay infinite, while another, a rounding smaller, comes back.
bool stays_in_range(const LayerSpec& layer, const NeuronSpec& neuron, int64_t steps) {
  for (int64_t j = 0; j < layer.n_out; ++j) {
    double most = neuron.threshold;
    if (!layer.bias.empty()) most += std::abs(static_cast<double>(layer.bias[static_cast<size_t>(j)]));
    for (int64_t k = 0; k < layer.n_in; ++k) {
      most += std::abs(static_cast<double>(layer.weights[static_cast<size_t>(j * layer.n_in + k)]));
    }
    most = most * static_cast<double>(steps) + std::abs(static_cast<double>(neuron.initial_membrane));
    if (!(most < 1e38)) return false;
  }
  return true;
}

}  // namespace

Plan::Floats Plan::floats(int64_t count) {
  // Large arrays are read all over: on large pages, where the system has them, addresses are translated without misses.
  constexpr int64_t kPage = int64_t{1} << 21;
  const int64_t wanted = std::max<int64_t>(count, 1) * static_cast<int64_t>(sizeof(float));
  const int64_t alignment = wanted >= kPage / 2 ? kPage : 64;
  const auto bytes = static_cast<size_t>(round_up(wanted, alignment));
  float* data = static_cast<float*>(std::aligned_alloc(static_cast<size_t>(alignment), bytes));
  if (!data) throw std::bad_alloc();
#if defined(__linux__)
  if (alignment == kPage) madvise(data, bytes, MADV_HUGEPAGE);
#endif
  std::memset(data, 0, bytes);
  return Floats(data, std::free);
}

void Plan::pack(const LayerSpec& layer, float initial, bool fires, bool spikes) {
  LayerView view{};
  view.n_in = layer.n_in;
  view.n_out = layer.n_out;
  view.padded = round_up(layer.n_out, kernels_.lanes);
  view.panels = (view.padded + kernels_.panel - 1) / kernels_.panel;
  view.fires = fires;
  const Segments segments(layer.n_in, kernels_.most_rows);
  const int64_t panel = spikes ? kernels_.row : kernels_.panel, rows = spikes ? segments.rows : layer.n_in;
  Floats weights = floats(rows * view.padded), bias = floats(view.padded), start = floats(view.padded);
  for (int64_t begin = 0; begin < view.padded; begin += panel) {
    const int64_t width = std::min(panel, view.padded - begin);
    float* const to = weights.get() + begin * rows;
    for (int64_t j = begin; j < std::min(begin + width, layer.n_out); ++j) {
      for (int64_t k = 0; k < layer.n_in; ++k) {
        to[(spikes ? segments.row(k) : k) * width + (j - begin)] =
            layer.weights[static_cast<size_t>(j * layer.n_in + k)];
      }
    }
  }
  if (!layer.bias.empty()) std::copy(layer.bias.begin(), layer.bias.end(), bias.get());
  std::fill(start.get(), start.get() + layer.n_out, initial);
  (spikes ? view.rows : view.weights) = weights.get();
  view.bias = bias.get();
  view.initial = start.get();
  for (Floats* f : {&weights, &bias, &start}) storage_.push_back(std::move(*f));
  layers_.push_back(view);
}

// A pattern's entry is that of the pattern without its highest bit plus that input's weights: inputs ascending, bias
// last.
void Plan::build_tables(const NetworkSpec& spec) {
  for (size_t l = 0; l < spec.layers.size(); ++l) {
    const LayerSpec& layer = spec.layers[l];
    TableView table{};
    table.width = table_width(layer.n_out, layers_[l].fires, kernels_.lanes);
    const int64_t width = table.width, n = layer.n_in;
    if (l > 0) {  // the first layer's current is computed, not looked up
      const int64_t prefix = n <= kTableBits ? n : kTablePrefixBits, entries = int64_t{1} << prefix;
      const int64_t stride =
          prefix == n && layer.n_out <= kFewestOutputs && width == kFewOutputs ? kFewestOutputs : width;
      Floats all = floats(entries * stride + width), bias = floats(width);
      float* const base = all.get();
      const auto entry = [&](int64_t m) {
        return base + (prefix == n ? table_slot(static_cast<uint32_t>(m), width) : m) * stride;
      };
      for (int64_t k = 0; k < prefix; ++k) {
        const int64_t bit = int64_t{1} << k;
        for (int64_t m = 0; m < bit; ++m) {
          const float* const without = entry(m);
          float* const with = entry(bit + m);
          for (int64_t j = 0; j < layer.n_out; ++j) {
            with[j] = without[j] + layer.weights[static_cast<size_t>(j * n + k)];
          }
        }
      }
      if (prefix < n) {
        Floats rest = floats((n - prefix + 1) * width);
        for (int64_t k = prefix; k < n; ++k) {
          for (int64_t j = 0; j < layer.n_out; ++j) {
            rest.get()[(k - prefix) * width + j] = layer.weights[static_cast<size_t>(j * n + k)];
          }
        }
        if (!layer.bias.empty()) std::copy(layer.bias.begin(), layer.bias.end(), bias.get());
        table.rest = rest.get();
        storage_.push_back(std::move(rest));
      } else if (!layer.bias.empty()) {
        for (int64_t m = 0; m < entries; ++m) {
          for (int64_t j = 0; j < layer.n_out; ++j) base[m * stride + j] += layer.bias[static_cast<size_t>(j)];
        }
      }
      table.stride = stride;
      table.entries = base;
      table.pattern = static_cast<uint32_t>(entries - 1);
      table.prefix = static_cast<int>(prefix);
      table.end = uint32_t{1} << (n - prefix);
      table.bias = bias.get();
      storage_.push_back(std::move(all));
      storage_.push_back(std::move(bias));
    }
    tables_.push_back(table);
  }
}

// Slices for every layer behind the first that they can serve. Without a matrix unit they are only made to order.
void Plan::build_slices(const NetworkSpec& spec, const PlanOptions& options) {
  const bool wanted = options.method == Method::slices;
  constexpr int64_t kFewestInputs =
      32;  // fewer are mostly padding; few outputs too, but they spare the lists of spikes
  slices_.reserve(spec.layers.size());
  for (size_t l = 1; l < spec.layers.size(); ++l) {
    const LayerSpec& layer = spec.layers[l];
    if (!wanted && layer.n_in < kFewestInputs) continue;
    if (view_.counted && l + 1 == spec.layers.size()) continue;
    std::optional<SlicedLayer> sliced = slice_layer(layer, options.exact);
    SliceView view{};
    if (!sliced && options.exact) {
      if (std::optional<std::vector<IntegerRow>> rows = rows_in_doubt(spec, l)) {
        sliced = sliced_rows(std::move(*rows));
        view.in_doubt = true;
      }
    }
    if (!sliced) continue;
    view.slices = sliced->slices;
    view.output_tiles = (layer.n_out + kSliceOutputs - 1) / kSliceOutputs;
    view.input_tiles = (layer.n_in + kSliceInputs - 1) / kSliceInputs;
    const int64_t padded = view.output_tiles * kSliceOutputs;
    Floats digits = floats(view.output_tiles * view.input_tiles * view.slices * kSliceBytes / 4);
    Floats scale = floats(padded), bias = floats(padded);
    auto* bytes = reinterpret_cast<int8_t*>(digits.get());
    for (int64_t j = 0; j < layer.n_out; ++j) {
      const IntegerRow& row = sliced->rows[static_cast<size_t>(j)];
      scale.get()[j] = static_cast<float>(std::ldexp(1.0, row.exponent));
      for (int64_t k = 0; k < layer.n_in; ++k) {
        const int64_t tile = j / kSliceOutputs * view.input_tiles + k / kSliceInputs;
        const int64_t within = k % kSliceInputs / 4 * 64 + j % kSliceOutputs * 4 + k % 4;
        for (int s = 0; s < view.slices; ++s) {
          bytes[(tile * view.slices + s) * kSliceBytes + within] =
              digit(row.integers[static_cast<size_t>(k)], view.slices, s);
        }
      }
    }
    if (!layer.bias.empty()) std::copy(layer.bias.begin(), layer.bias.end(), bias.get());
    view.digits = bytes;
    view.scale = scale.get();
    view.bias = bias.get();
    for (Floats* f : {&digits, &scale, &bias}) storage_.push_back(std::move(*f));
    slices_.push_back(view);
    layers_[l].slices = &slices_.back();
  }
}

// The second layer's weights for prefix sums, if its inputs are plain neurons under a constant current: others need not
// fire in runs. Where sums would not be exact but have to be, the layer has to consist of neurons whose spikes can be
// made certain (certain_spikes.h), in the one tile of steps that there is.
void Plan::build_sums(const NetworkSpec& spec, const PlanOptions& options) {
  constexpr int64_t kFewest = 64, kMost = 32768;  // inputs; fewer have no runs to speak of
  const NeuronSpec& neuron = spec.neuron;
  const bool plain = neuron.alpha == 0.0f && neuron.beta == 1.0f && !neuron.reset_to_zero;
  if (spec.layers.size() < 2 || spec.encoding != Encoding::constant || !plain) return;
  if (view_.counted && spec.layers.size() == 2) return;
  const LayerSpec& layer = spec.layers[1];
  if (layer.n_in > kMost || (layer.n_in < kFewest && options.method != Method::prefix_sums)) return;
  LayerView& view = layers_[1];
  std::optional<std::vector<IntegerRow>> integers = integer_rows(layer, options.exact, kMostSum);
  const bool in_doubt = !integers && options.exact;
  if (in_doubt) integers = rows_in_doubt(spec, 1);
  if (!integers) return;
  Floats rows = floats((layer.n_in + 1) * view.padded), scale = floats(view.padded);
  auto* const to = reinterpret_cast<int32_t*>(rows.get());
  for (int64_t begin = 0, width; begin < view.padded; begin += width) {
    width = view.padded - begin < kernels_.sum_row ? kernels_.lanes : kernels_.sum_row;
    for (int64_t j = begin; j < std::min(begin + width, layer.n_out); ++j) {
      const IntegerRow& row = (*integers)[static_cast<size_t>(j)];
      scale.get()[j] = static_cast<float>(std::ldexp(1.0, row.exponent));
      for (int64_t k = 0; k < layer.n_in; ++k) {
        to[begin * (layer.n_in + 1) + k * width + (j - begin)] = row.integers[static_cast<size_t>(k)];
      }
    }
  }
  sums_ = {to, scale.get(), in_doubt};
  for (Floats* f : {&rows, &scale}) storage_.push_back(std::move(*f));
  view.sums = &sums_;
}

// A layer's weights as integers if, with them, its spikes can be made certain (certain_spikes.h): it consists of plain
// neurons, in the one tile of steps that there is. Notes how large the weights are, and keeps them by output.
std::optional<std::vector<IntegerRow>> Plan::rows_in_doubt(const NetworkSpec& spec, size_t l) {
  const LayerSpec& layer = spec.layers[l];
  const NeuronSpec& neuron = spec.neuron;
  LayerView& view = layers_[l];
  const bool plain = neuron.alpha == 0.0f && neuron.beta == 1.0f && !neuron.reset_to_zero && !neuron.delayed;
  if (!plain || !view.fires || layer.n_in > kMostInputsInDoubt || spec.timesteps > view_.tile) return std::nullopt;
  if (!stays_in_range(layer, neuron, spec.timesteps)) return std::nullopt;
  std::optional<std::vector<IntegerRow>> integers = integer_rows(layer, false, kMostSum);
  if (!integers || view.usual) return integers;
  const int64_t padded = round_up(layer.n_out, kSliceOutputs), n = layer.n_in;
  const int64_t largest = std::max<int64_t>(1, n / 16);  // about half of as many as spike
  Floats usual = floats(padded), excess = floats(padded), weights = floats(layer.n_out * n);
  std::copy(layer.weights.begin(), layer.weights.end(), weights.get());
  std::vector<float> sizes(static_cast<size_t>(n));
  for (int64_t j = 0; j < layer.n_out; ++j) {
    const IntegerRow& row = (*integers)[static_cast<size_t>(j)];
    const double unit = std::ldexp(1.0, row.exponent);
    bool rounded = false;
    for (int64_t k = 0; k < n; ++k) {
      const float weight = weights.get()[j * n + k];
      sizes[static_cast<size_t>(k)] = std::abs(weight);
      rounded = rounded || unit * row.integers[static_cast<size_t>(k)] != static_cast<double>(weight);
    }
    const auto last = sizes.begin() + (largest - 1);
    std::nth_element(sizes.begin(), last, sizes.end(), std::greater<>());
    double more = rounded ? unit * 0x1p23 : 0.0;
    for (auto size = sizes.begin(); size < last; ++size)
      more += static_cast<double>(*size) - static_cast<double>(*last);
    usual.get()[j] = *last;
    excess.get()[j] = static_cast<float>(more);
  }
  view.usual = usual.get();
  view.excess = excess.get();
  view.by_output = weights.get();
  for (Floats* f : {&usual, &excess, &weights}) storage_.push_back(std::move(*f));
  return integers;
}

Plan::Plan(const NetworkSpec& spec, const Kernels& kernels, const PlanOptions& options) : kernels_(kernels) {
  const StandardFloatMode standard;  // tables are sums, and slices are made of denormals too
  validate(spec);
  const size_t last = spec.layers.size() - 1;
  int64_t widest = spec.features();
  const bool coded = spec.code.kind != CodeKind::none;
  bool small = spec.encoding == Encoding::constant && !coded;
  for (size_t l = 0; l <= last; ++l) {
    const LayerSpec& layer = spec.layers[l];
    const bool constant = l == 0 && spec.encoding == Encoding::constant;
    pack(layer, l < last ? spec.neuron.initial_membrane : 0.0f, l < last || spec.last_layer_fires(),
         !constant && !coded);
    widest = std::max(widest, layer.n_out);
    small = small && layer.n_out <= kTableWidth;
    // A guess of the rate of spikes, 1 in 8, is good enough for a decision about threads.
    const double sums =
        constant ? static_cast<double>(layer.n_in) : static_cast<double>(spec.timesteps * layer.n_in) / 8.0;
    const auto copies = static_cast<double>(spec.code.levels.size());
    const double passes = even_level(spec.code.levels) > 0.0f ? std::min(copies, 2.0) : std::max(copies, 1.0);
    const double steps = passes * static_cast<double>(spec.timesteps);
    work_per_sample_ += static_cast<double>(layers_.back().padded) / 8.0 * (sums + 4.0 * steps);
  }
  const Method method = options.method;
  // On a grid the fast contract has the exact bits, of sums that are rounded in every step.
  const NeuronSpec& neuron = spec.neuron;
  view_.counted = method == Method::automatic && !options.exact && last > 0 && !spec.last_layer_fires() && !coded &&
                  !small && !neuron.delayed && neuron.alpha == 0.0f && neuron.beta == 1.0f &&
                  !integer_rows(spec.layers[last], true) &&
                  stays_in_range(spec.layers[last], neuron, spec.timesteps * (spec.timesteps + 1) / 2);
  require(method != Method::tables || small,
          "method 'tables' needs constant encoding and layers of at most " + std::to_string(kTableWidth) + " neurons");
  if (method == Method::tables || (method == Method::automatic && small)) build_tables(spec);
#if defined(SNNFAST_X86)
  initial_ = last > 0 ? spec.neuron.initial_membrane : 0.0f;
  may_have_trains_ = !tables_.empty() && layers_[0].fires && layers_[0].n_out <= kTrainNeurons &&
                     !spec.neuron.delayed && !spec.neuron.reset_to_zero && spec.neuron.alpha == 0.0f &&
                     spec.neuron.beta == 1.0f && has_trains(spec.neuron.threshold, initial_, spec.timesteps);
  if (method == Method::tables) without_trains_ = kTrainTableSamples * kTrainSteps;
#endif
  view_.tile = std::min({spec.timesteps, std::max<int64_t>(16, kTileSpikes / widest), kMostSteps});
  if (coded) {
    require(method == Method::automatic, "a network with a code has one method only");
    build_code(spec);
  } else if (method == Method::slices || (method == Method::automatic && !small && kernels.matrix_unit)) {
    require(kernels.slices,
            std::string("method 'slices' is there for amx and, for comparison, baseline; not for ") + kernels.isa);
    build_slices(spec, options);
    size_t served = 0;  // potentials of a last layer are never certain: off a grid it adds rows
    for (size_t l = 1; l <= last; ++l) served += layers_[l].slices || (options.exact && !layers_[l].fires);
    require(method != Method::slices || last == 0 || (served == last && !slices_.empty()),
            options.exact ? "method 'slices' needs weights that lie on a grid where the result must be exact"
                          : "method 'slices' needs finite sums of weights and at most 32768 inputs per layer");
  }
  // A last layer that step_lanes.h can serve.
  constexpr int64_t kByOutput = 16, kMostIds = 1 << 16;
  const bool accumulates = !spec.last_layer_fires() && !neuron.delayed && neuron.alpha == 0.0f && neuron.beta == 1.0f;
  if (kernels.lanes == kStepLanes && last > 0 && accumulates && !small && !coded && method == Method::automatic &&
      layers_[last].n_out <= kByOutput && layers_[last].n_in <= kMostIds) {
    const std::vector<float>& weights = spec.layers[last].weights;
    layers_[last].by_output = rows(weights, static_cast<int64_t>(weights.size()), static_cast<int64_t>(weights.size()));
  }
  if (method == Method::prefix_sums || (method == Method::automatic && !small && !coded)) {
    build_sums(spec, options);
  }
  require(
      method != Method::prefix_sums || sums_.rows,
      options.exact
          ? "method 'prefix_sums' needs constant encoding, plain neurons, at least two layers, at most 32768 inputs "
            "of the second, sums of its weights up to 1e38 and, where the result must be exact, weights that lie on a "
            "grid or a second layer that fires, in the immediate order, in at most " +
                std::to_string(view_.tile) + " steps, and below 1e38"
          : "method 'prefix_sums' needs constant encoding, plain neurons, at least two layers, at most 32768 inputs "
            "of the second and sums of its weights up to 1e38");
  explain(spec, options);

  view_.layers = layers_.data();
  view_.n_layers = static_cast<int64_t>(layers_.size());
  view_.alpha = spec.neuron.alpha;
  view_.beta = spec.neuron.beta;
  view_.threshold = spec.neuron.threshold;
  view_.delayed = spec.neuron.delayed;
  view_.reset_to_zero = spec.neuron.reset_to_zero;
  view_.timesteps = spec.timesteps;
  view_.encoding = static_cast<int>(spec.encoding);
  view_.decoding = static_cast<int>(spec.decoding);
  view_.split_inputs = spec.split_inputs;
  view_.bias_input = spec.bias_input;
  view_.n_in = spec.n_in();
  view_.tables = tables_.empty() ? nullptr : tables_.data();
  view_.always_slices = method == Method::slices;
  view_.always_sums = method == Method::prefix_sums;
  view_.packs_bytes = packs_bytes();
  view_.turns_bits = turns_bits();
  view_.slow_broadcasts = slow_broadcasts();
  // What one more sample takes; the rest is there once for all of them.
  view_.block = 1;
  const int64_t one = kernels_.scratch_bytes(view_);
  view_.block = 2;
  const int64_t per_sample = kernels_.scratch_bytes(view_) - one;
  view_.block = std::clamp<int64_t>(kBlockBytes / per_sample, 1, kMaxBlock);
  scratch_bytes_ = kernels_.scratch_bytes(view_);
  if (!tables_.empty()) scratch_bytes_ = std::max(scratch_bytes_, kernels_.tables_scratch_bytes(view_));
  if (coded) {
    view_.code = &code_;
    scratch_bytes_ = kernels_.coded_scratch_bytes(view_);
  }
}

// A table (rows, n) as the kernels read it: (rows, padded). Padding and zeros that mean silence are `silent`.
const float* Plan::rows(const std::vector<float>& table, int64_t n, int64_t padded, float silent) {
  const int64_t count = static_cast<int64_t>(table.size()) / n;
  Floats all = floats(count * padded);
  std::fill(all.get(), all.get() + count * padded, silent);
  for (int64_t i = 0; i < count; ++i) {
    std::copy(table.begin() + i * n, table.begin() + (i + 1) * n, all.get() + i * padded);
  }
  storage_.push_back(std::move(all));
  return storage_.back().get();
}

namespace {

// The widest layer of networks that run a sample per lane. Beyond it rows of weights for the inputs that spiked are
// less work: the denser the spikes are, the fewer the additions per number, and the more sums fit into registers, the
// later. (Measured with AVX2 and AVX-512; side by side, radix and staged neurons have not caught up by 512.)
int64_t lanes_widest(const CodeSpec& code, int64_t outputs, int64_t lanes) {
  switch (code.kind) {
    case CodeKind::rate:
      return code.exit != ExitKind::none ? 32 : lanes == 16 ? kRateLanesWidest : 80;
    case CodeKind::digits:
      // An exit looks at all outputs in every step.
      if (code.exit != ExitKind::none && outputs > 8) return lanes == 16 ? 64 : 48;
      return lanes == 16 ? 96 : 80;
    default:
      return 512;
  }
}

// Whether no weight times what up to so many copies can send in a step is rounded: an odd whole number, what is left of
// a weight without its powers of two, times the largest odd count must fit into the 24 bits of a float.
bool products_are_whole(const NetworkSpec& spec, int64_t copies) {
  const float most = std::numeric_limits<float>::max() / static_cast<float>(copies);
  const int64_t largest = copies - (copies + 1) % 2;
  for (size_t l = 1; l < spec.layers.size(); ++l) {
    for (float weight : spec.layers[l].weights) {
      if (!(std::abs(weight) <= most)) return false;
      int exponent = 0;
      auto digits = static_cast<int64_t>(std::ldexp(std::frexp(std::abs(weight), &exponent), 24));
      while (digits && digits % 2 == 0) digits /= 2;
      if (digits * largest >= int64_t{1} << 24) return false;
    }
  }
  return true;
}

// As many samples side by side as take about as long as a pack of lanes (measured too): the wider, the more.
int64_t fewest_lanes(const CodeSpec& code, int64_t lanes, int64_t widest) {
  const auto width = static_cast<double>(widest);
  const int64_t pack = kLaneVectors * lanes;
  const bool wide = lanes == 16;
  double share = 0.0;
  switch (code.kind) {
    case CodeKind::rate:
      if (code.exit != ExitKind::none) return pack;  // it takes several packs' samples to keep lanes busy
      share = width / (wide ? 150.0 : 90.0);
      break;
    case CodeKind::digits:
      share = width / (code.exit == ExitKind::none ? wide ? 115.0 : 90.0 : wide ? 105.0 : 60.0);
      break;
    default:
      share = std::sqrt(width) / 24.0;
  }
  return static_cast<int64_t>(std::ceil(static_cast<double>(pack) * std::clamp(share, 0.15, 1.0)));
}

}  // namespace

void Plan::build_code(const NetworkSpec& spec) {
  const CodeSpec& code = spec.code;
  const int64_t outputs = layers_.back().n_out;
  lanes_widest_ = lanes_widest(code, outputs, kernels_.lanes);
  code_.kind = static_cast<int>(code.kind);
  code_.exit = static_cast<int>(code.exit);
  code_.copies = std::max(1, static_cast<int>(code.levels.size()));
  code_.even_level = even_level(code.levels);
  code_.signed_spikes = code.signed_spikes;
  code_.ramp = code.ramp;
  code_.offset = code.offset;
  code_.lanes = layers_.size() > 1 && outputs <= lanes_outputs(kernels_.lanes);
  code_.slack = code.slack;
  const auto list = [&](const std::vector<float>& v) {
    const auto n = static_cast<int64_t>(v.size());
    return v.empty() ? nullptr : rows(v, n, n);
  };
  code_.levels = list(code.levels);
  code_.step_weights = list(code.step_weights);
  code_.divisors = list(code.divisors);
  code_.bounds = list(code.bounds);
  code_.left = list(code.left);
  code_.largest = list(code.largest);
  const LayerView& last = layers_.back();
  if (!code.overtake.empty()) code_.overtake = rows(code.overtake, last.n_out, last.padded);
  int64_t widest = 1;
  for (size_t l = 0; l + 1 < spec.layers.size(); ++l) {
    const int64_t n = layers_[l].n_out, padded = layers_[l].padded;
    code_.lanes = code_.lanes && n <= lanes_widest_;
    widest = std::max(widest, n);
    CodeLayerView view{};
    view.offset = code_.state;
    code_.state += padded;
    if (!code.levels.empty()) view.starts = rows(std::vector<float>(static_cast<size_t>(n), code.start), n, padded);
    if (code.kind == CodeKind::digits) {
      std::vector<float> thresholds = code.thresholds[l];
      constexpr float never = std::numeric_limits<float>::infinity();
      for (size_t i = 0; i < thresholds.size(); ++i) {
        if (!(code.values[l][i] > 0.0f)) thresholds[i] = never;
      }
      active_.push_back(std::make_unique<bool[]>(static_cast<size_t>(spec.timesteps)));
      for (size_t i = 0; i < thresholds.size(); ++i) {
        active_.back()[i / static_cast<size_t>(n)] |= code.values[l][i] > 0.0f;
      }
      view.active = active_.back().get();
      view.values = rows(code.values[l], n, padded);
      view.thresholds = rows(thresholds, n, padded, never);
      if (!code.guards.empty()) view.guards = rows(code.guards[l], n, padded);
      if (!code.drift.empty()) {
        view.drift = rows(code.drift[l], n, padded);
        view.rounding = rows(code.rounding[l], n, padded);
      }
    }
    code_layers_.push_back(view);
  }
  if (!code.largest.empty()) {
    code_.by_output = rows(spec.layers.back().weights, last.n_in, layers_[layers_.size() - 2].padded);
  }
  if (code.kind == CodeKind::digits && code_.lanes) code_.lanes = build_digit_steps(spec);
  code_.whole_products = code.kind == CodeKind::rate && products_are_whole(spec, code_.copies);
  code_.fewest_lanes = fewest_lanes(code, kernels_.lanes, widest);
  code_.layers = code_layers_.data();
}

// What lanes_digits.h reads. False if weights times values do not all fit into float32.
bool Plan::build_digit_steps(const NetworkSpec& spec) {
  const CodeSpec& code = spec.code;
  for (size_t l = 0; l + 1 < spec.layers.size(); ++l) {
    const LayerSpec& next = spec.layers[l + 1];
    CodeLayerView& view = code_layers_[l];
    const int64_t n = layers_[l].n_out;
    view.width = (next.n_out + kLaneOutputs - 1) / kLaneOutputs * kLaneOutputs;
    DigitSteps& steps = digit_steps_.emplace_back();
    std::vector<float> values, thresholds, guards, products;
    for (int64_t t = 0; t < spec.timesteps; ++t) {
      steps.views.push_back({});
      for (int64_t j = 0; j < n; ++j) {
        const auto at = static_cast<size_t>(t * n + j);
        const float value = code.values[l][at];
        if (!(value > 0.0f)) continue;
        ++steps.views.back().n;
        steps.neurons.push_back(static_cast<uint32_t>(j));
        values.push_back(value);
        thresholds.push_back(code.thresholds[l][at]);
        if (view.guards) guards.push_back(code.guards[l][at]);
        for (int64_t i = 0; i < view.width; ++i) {
          products.push_back(i < next.n_out ? next.weights[static_cast<size_t>(i * n + j)] * value : 0.0f);
          if (!std::isfinite(products.back())) return false;
        }
      }
    }
    if (values.empty()) values = thresholds = products = {0.0f};  // no neuron ever spikes
    const auto list = [&](const std::vector<float>& v) {
      const auto size = static_cast<int64_t>(v.size());
      return v.empty() ? nullptr : rows(v, size, size);
    };
    DigitStepView at{0, steps.neurons.data(), list(values), list(thresholds), list(guards), list(products)};
    for (DigitStepView& step : steps.views) {
      at.n = step.n;
      step = at;
      at.neurons += at.n;
      at.values += at.n;
      at.thresholds += at.n;
      if (at.guards) at.guards += at.n;
      at.products += at.n * view.width;
    }
  }
  for (size_t l = 0; l < code_layers_.size(); ++l) code_layers_[l].steps = digit_steps_[l].views.data();
  return true;
}

// For people: what runs which layer, and why.
void Plan::explain(const NetworkSpec& spec, const PlanOptions& options) {
  const bool made_to_order = options.method != Method::automatic;
  if (spec.code.kind != CodeKind::none) {
    why_ = code_.lanes
               ? "a code other than plain neurons, layers of at most " + std::to_string(lanes_widest_) +
                     " neurons: a sample per lane, each until it may stop; side by side where steps are recorded"
               : "a code other than plain neurons: samples side by side, step by step, each until it may stop";
    return;
  }
  if (!tables_.empty()) {
    why_ = "layers of at most " + std::to_string(kTableWidth) +
           " neurons under constant encoding: spikes are the bits of a word that addresses the next layer's current";
    if (made_to_order) why_ += "; asked for";
    if (may_have_trains_) why_ += "; in large batches the first layer's spikes are looked up by its current";
    return;
  }
  const std::string add = "adds the weight rows of the inputs that spiked";
  for (size_t l = 0; l < layers_.size(); ++l) {
    if (l) why_ += "; ";
    why_ += "layer " + std::to_string(l + 1) + ": ";
    if (l == 0 && spec.encoding == Encoding::constant) {
      why_ += "constant current, computed once";
      continue;
    }
    if (view_.counted && l + 1 == layers_.size()) {
      why_ += "from how often each input spiked";
      continue;
    }
    if (layers_[l].sums) {
      why_ += "differences of prefix sums over inputs sorted by their currents";
      if (!made_to_order) why_ += " where their spikes form few runs";
      if (layers_[l].sums->in_doubt) why_ += ", canonical sums where a neuron comes too near its threshold";
      why_ += made_to_order ? ", asked for" : ", else ";
      if (made_to_order) continue;
    }
    if (const SliceView* slices = layers_[l].slices) {
      why_ += "matrix products in " + std::to_string(slices->slices) + " slices of 8 bits";
      if (!made_to_order) why_ += " where enough inputs spike";
      if (slices->in_doubt) why_ += ", canonical sums where a neuron comes too near its threshold";
      why_ += made_to_order ? ", asked for" : ", else " + add;
    } else {
      why_ += add;
      if (l > 0 && !made_to_order) {
        why_ += !kernels_.matrix_unit ? " (no matrix unit)"
                : options.exact       ? " (slices would not be exact, or the layer is too small)"
                                      : " (too small, or too many inputs or too large weights, for slices)";
      }
      if (!layers_[l].fires && layers_[l].by_output) why_ += "; where many spike, perhaps with a step in every lane";
    }
  }
}

// The first layer's spike trains, or null as long as its neurons are run: a table is made as soon as that has taken
// about as much longer as making one takes.
const TrainsView* Plan::look_for_trains(int64_t batch) const {
  const TrainTable* table = trains_.load(std::memory_order_acquire);
  if (!table) {
    const int64_t samples = without_trains_.fetch_add(batch, std::memory_order_relaxed) + batch;
    const bool make = samples >= kTrainTableSamples * view_.timesteps;
    // Another thread is at it; or was, in the process that this one was forked from, and then there will be no table.
    if (fetching_trains_.test_and_set(std::memory_order_acquire)) return nullptr;
    if (!train_table_) train_table_ = train_table(view_.threshold, initial_, view_.timesteps, make);
    table = train_table_.get();
    trains_.store(table, std::memory_order_release);
    fetching_trains_.clear(std::memory_order_release);
  }
  return table && !table->trains.empty() ? &table->view : nullptr;
}

bool Plan::run(const Request& request, const Interrupt& interrupt) const {
  const bool by_tables = !tables_.empty() && !request.spikes && !request.potentials;
  const NetworkView* view = &view_;
  NetworkView with_trains;
  if (may_have_trains_ && by_tables && request.batch >= kTrainedBatch) {
    if (const TrainsView* table = look_for_trains(request.batch)) {
      with_trains = view_;
      with_trains.trains = table;
      view = &with_trains;
    }
  }
  const int64_t most = view_.code ? kCodedBlock : by_tables ? kTableBlock : view_.block;
  Job job{request, interrupt, most,
          view_.code  ? kernels_.run_coded
          : by_tables ? kernels_.run_tables
                      : kernels_.run_block};

  struct Item {
    const NetworkView& view;
    int64_t scratch_bytes;
    Job& job;
  } context{*view, scratch_bytes_, job};
  const ItemFunction run_item = [](void* pointer, int64_t i) {
    const Item& item = *static_cast<Item*>(pointer);
    Job& j = item.job;
    const Interrupt shared{poll_job, &j};
    if (i > 0 && poll_job(&j)) return false;  // blocks may be shorter than the work after which they ask themselves
    const int64_t first = i * j.block, count = std::min(j.block, j.request.batch - first);
    const StandardFloatMode standard;
    const Scratch scratch(item.scratch_bytes);
    if (!scratch.data()) {
      j.no_memory.store(true);
      return false;
    }
    if (j.request.batch < kMeasuredBatch || std::this_thread::get_id() != j.calling_thread) {
      return j.run(item.view, j.request, first, count, scratch.data(), shared);
    }
    const auto start = std::chrono::steady_clock::now();
    const bool finished = j.run(item.view, j.request, first, count, scratch.data(), shared);
    j.time += std::chrono::steady_clock::now() - start;
    j.samples += count;
    return finished;
  };
  const auto run_here = [&] {
    bool finished = true;
    for (int64_t i = 0; i * job.block < request.batch && finished; ++i) finished = run_item(&context, i);
    return finished;
  };

  const bool records = request.spikes || request.potentials;
  std::atomic<float>& measured = nanoseconds_[records];
  const double before = measured.load(std::memory_order_relaxed);
  const double guessed = work_per_sample_ / (by_tables ? kTablesWorkPerNanosecond : kWorkPerNanosecond);
  const double expected = static_cast<double>(request.batch) * (before > 0.0 ? before : guessed);

  bool finished = true;
  if (request.batch <= 1 || expected < kParallelNanoseconds) {
    finished = run_here();
  } else {
    // Several items for every thread, so that none waits long for the last one.
    const int64_t threads = num_threads(), items = slices_.empty() ? 4 * threads : threads;
    job.block = std::clamp<int64_t>((request.batch + items - 1) / items, 1, most);
    if (by_tables) job.block = round_up(job.block, kTableGroup);
    const bool by_lanes = view_.code && code_.lanes && !request.spikes && !request.potentials;
    if (by_lanes) job.block = round_up(job.block, kLanesTogether);
    finished = parallel_for((request.batch + job.block - 1) / job.block, run_item, &context, {poll_job, &job});
    if (job.no_memory.exchange(false) && !job.stop.load()) {  // for all threads, that is; for one there may be enough
      job.block = most;
      finished = run_here();
    }
    finished = finished && !job.stop.load();  // it may have been asked for while the last items were under way
  }
  if (job.no_memory.load()) throw std::bad_alloc();
  if (finished && job.samples > 0) {
    // A thread may lose its processor meanwhile: what is longer than before is believed little by little.
    const double now = static_cast<double>(job.time.count()) / static_cast<double>(job.samples);
    measured.store(static_cast<float>(before > 0.0 ? std::min(now, 1.1 * before) : now), std::memory_order_relaxed);
  }
  return finished;
}

}  // namespace snnfast
