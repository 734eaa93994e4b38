// SPDX-License-Identifier: Apache-2.0
#include "cpu/plan.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>
#include <thread>

#include "cpu/float_mode.h"
#include "cpu/thread_pool.h"

namespace snnfast {
namespace {

constexpr int64_t kMaxBlock = 16;
// Scratch memory of a block, if every neuron fired always; at the rates that occur (10-20 %) a fraction of it is
// touched. Large on purpose: the more samples share a block, the fewer times a large layer's weights are streamed.
constexpr int64_t kBlockBytes = 1 << 23;
constexpr int64_t kTileBytes = 1 << 19;
// Below this much work a second thread costs more than it brings.
constexpr double kParallelWork = 2e5;
// Method "tables" looks at the interrupt after each group of samples only, so it takes no longer runs than these.
constexpr int64_t kTableSteps = 1 << 18;
constexpr int64_t kTableBlock = 256;

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Scratch memory of a thread, lent for one block. It is kept from call to call, so that small batches allocate nothing.
// A call within a call (a signal handler of Python's that runs a network while we poll) gets memory of its own.
class Scratch {
 public:
  explicit Scratch(int64_t bytes) {
    if (kept_.lent) {
      own_ = allocate(bytes);
      return;
    }
    if (kept_.size < bytes) {
      std::free(kept_.data);
      kept_.data = nullptr;
      kept_.size = 0;
      kept_.data = allocate(bytes);
      kept_.size = bytes;
    }
    kept_.lent = true;
  }
  ~Scratch() {
    if (own_) {
      std::free(own_);
    } else {
      kept_.lent = false;
    }
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  char* data() const { return own_ ? own_ : kept_.data; }

 private:
  struct Kept {
    char* data = nullptr;
    int64_t size = 0;
    bool lent = false;
    ~Kept() { std::free(data); }
  };
  static char* allocate(int64_t bytes) {
    void* data = std::aligned_alloc(64, static_cast<size_t>(round_up(bytes, 64)));
    if (!data) throw std::bad_alloc();
    return static_cast<char*>(data);
  }
  static thread_local Kept kept_;
  char* own_ = nullptr;
};

thread_local Scratch::Kept Scratch::kept_;

// One call of Plan::run, as its threads see it.
struct Job {
  const Request& request;
  const Interrupt& caller;
  int64_t block;
  bool by_tables;
  std::thread::id calling_thread = std::this_thread::get_id();
  std::atomic<bool> stop{false};
  std::atomic<bool> no_memory{false};
};

// Only the calling thread may ask (it may need the interpreter for it); the others look at its answer.
bool poll_job(void* context) {
  Job& job = *static_cast<Job*>(context);
  if (std::this_thread::get_id() == job.calling_thread && job.caller.poll(job.caller.context)) job.stop.store(true);
  return job.stop.load(std::memory_order_relaxed);
}

}  // namespace

Plan::Floats Plan::floats(int64_t count) {
  const size_t bytes =
      static_cast<size_t>(round_up(std::max<int64_t>(count, 1) * static_cast<int64_t>(sizeof(float)), 64));
  float* data = static_cast<float*>(std::aligned_alloc(64, bytes));
  if (!data) throw std::bad_alloc();
  std::memset(data, 0, bytes);
  return Floats(data, std::free);
}

void Plan::pack(const LayerSpec& layer, float initial, bool fires) {
  LayerView view{};
  view.n_in = layer.n_in;
  view.n_out = layer.n_out;
  view.padded = round_up(layer.n_out, kernels_.lanes);
  view.panels = (view.padded + kernels_.panel - 1) / kernels_.panel;
  view.fires = fires;
  Floats weights = floats(layer.n_in * view.padded), bias = floats(view.padded), start = floats(view.padded);
  for (int64_t p = 0; p < view.panels; ++p) {
    const int64_t begin = p * kernels_.panel, width = std::min(kernels_.panel, view.padded - begin);
    float* rows = weights.get() + begin * layer.n_in;
    for (int64_t j = begin; j < std::min(begin + width, layer.n_out); ++j) {
      for (int64_t k = 0; k < layer.n_in; ++k) {
        rows[k * width + (j - begin)] = layer.weights[static_cast<size_t>(j * layer.n_in + k)];
      }
    }
  }
  if (!layer.bias.empty()) std::copy(layer.bias.begin(), layer.bias.end(), bias.get());
  std::fill(start.get(), start.get() + layer.n_out, initial);
  view.weights = weights.get();
  view.bias = bias.get();
  view.initial = start.get();
  for (Floats* f : {&weights, &bias, &start}) storage_.push_back(std::move(*f));
  layers_.push_back(view);
}

// Entry m of a table is the entry without m's highest bit plus that input's weights: inputs ascending, bias last.
void Plan::build_tables(const NetworkSpec& spec) {
  tables_.push_back({nullptr, 0});  // the first layer's current is computed, not looked up
  for (size_t l = 1; l < spec.layers.size(); ++l) {
    const LayerSpec& layer = spec.layers[l];
    const bool narrow = l + 1 == spec.layers.size() && layer.n_out <= kernels_.lanes;
    const int64_t width = narrow ? kernels_.lanes : kTableWidth;
    const int64_t entries = int64_t{1} << layer.n_in;
    Floats table = floats(entries * width);
    float* const base = table.get();
    for (int64_t k = 0; k < layer.n_in; ++k) {
      const int64_t bit = int64_t{1} << k;
      for (int64_t m = 0; m < bit; ++m) {
        for (int64_t j = 0; j < layer.n_out; ++j) {
          base[(bit + m) * width + j] = base[m * width + j] + layer.weights[static_cast<size_t>(j * layer.n_in + k)];
        }
      }
    }
    if (!layer.bias.empty()) {
      for (int64_t m = 0; m < entries; ++m) {
        for (int64_t j = 0; j < layer.n_out; ++j) base[m * width + j] += layer.bias[static_cast<size_t>(j)];
      }
    }
    tables_.push_back({base, width});
    storage_.push_back(std::move(table));
  }
}

Plan::Plan(const NetworkSpec& spec, const Kernels& kernels) : kernels_(kernels) {
  validate(spec);
  const size_t last = spec.layers.size() - 1;
  int64_t widest = spec.features();
  bool small = spec.layers.size() >= 2 && static_cast<int64_t>(last) <= kTableMaxHidden &&
               spec.encoding == Encoding::constant && !spec.split_inputs && !spec.bias_input &&
               !spec.last_layer_fires() && spec.timesteps <= kTableSteps;
  for (size_t l = 0; l <= last; ++l) {
    const LayerSpec& layer = spec.layers[l];
    pack(layer, l < last ? spec.neuron.initial_membrane : 0.0f, l < last || spec.last_layer_fires());
    widest = std::max(widest, layer.n_out);
    small = small && layer.n_out <= kTableWidth;
    // A guess of the rate of spikes, 1 in 8, is good enough for a decision about threads.
    const bool constant = l == 0 && spec.encoding == Encoding::constant;
    const double sums =
        constant ? static_cast<double>(layer.n_in) : static_cast<double>(spec.timesteps * layer.n_in) / 8.0;
    work_per_sample_ +=
        static_cast<double>(layers_.back().padded) / 8.0 * (sums + 4.0 * static_cast<double>(spec.timesteps));
  }
  if (small) build_tables(spec);

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
  view_.tile = std::min(spec.timesteps, std::max<int64_t>(16, kTileBytes / (4 * widest)));
  view_.block = 1;
  const int64_t per_sample = kernels_.scratch_bytes(view_);
  view_.block = std::clamp<int64_t>(kBlockBytes / per_sample, 1, kMaxBlock);
  scratch_bytes_ = kernels_.scratch_bytes(view_);
}

bool Plan::run(const Request& request, const Interrupt& interrupt) const {
  const bool by_tables = !tables_.empty() && !request.spikes && !request.potentials;
  const int64_t most = by_tables ? kTableBlock : view_.block;
  Job job{request, interrupt, most, by_tables};

  struct Item {
    const Plan& plan;
    Job& job;
  } context{*this, job};
  const ItemFunction run_item = [](void* pointer, int64_t i) {
    const Plan& plan = static_cast<Item*>(pointer)->plan;
    Job& j = static_cast<Item*>(pointer)->job;
    const Interrupt shared{poll_job, &j};
    const int64_t first = i * j.block, count = std::min(j.block, j.request.batch - first);
    const StandardFloatMode standard;
    if (j.by_tables) return plan.kernels_.run_tables(plan.view_, j.request, first, count, shared);
    try {
      const Scratch scratch(plan.scratch_bytes_);
      return plan.kernels_.run_block(plan.view_, j.request, first, count, scratch.data(), shared);
    } catch (const std::bad_alloc&) {
      j.no_memory.store(true);
      return false;
    }
  };

  bool finished = true;
  if (request.batch <= 1 || work(request.batch) < kParallelWork) {
    for (int64_t i = 0; i * most < request.batch && finished; ++i) finished = run_item(&context, i);
  } else {
    // Several items for every thread, so that none waits long for the last one.
    const int64_t items = 4 * static_cast<int64_t>(num_threads());
    job.block = std::clamp<int64_t>((request.batch + items - 1) / items, 1, most);
    finished = parallel_for((request.batch + job.block - 1) / job.block, run_item, &context, {poll_job, &job});
  }
  if (job.no_memory.load()) throw std::bad_alloc();
  return finished;
}

}  // namespace snnfast
