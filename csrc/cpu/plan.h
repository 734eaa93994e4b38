// SPDX-License-Identifier: Apache-2.0
// A network made ready to run on this machine: checked, packed for one instruction set, its method chosen. Everything
// slow or fallible happens here, in the constructor; running takes pointers and sizes.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/integer_rows.h"
#include "core/spec.h"
#include "cpu/kernels.h"
#include "cpu/train_table.h"

namespace snnfast {

// Which method a network is run by. The others are chosen by what they cost; naming one is for tests and comparisons.
enum class Method { automatic, events, tables, slices, prefix_sums };

struct PlanOptions {
  bool exact = true;  // hold to the exact contract: see docs/numerics.md
  Method method = Method::automatic;
};

class Plan {
 public:
  // Throws std::invalid_argument if the description is not valid, or if the method named cannot run the network.
  Plan(const NetworkSpec& spec, const Kernels& kernels, const PlanOptions& options = {});
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  // Run a batch; false if interrupted, what was written then is of no use. `interrupt` is asked on the calling thread
  // only. Reentrant. Throws std::bad_alloc.
  bool run(const Request& request, const Interrupt& interrupt) const;

  // About how long a batch takes on one thread, in operations of a nanosecond or less. For decisions, not for claims.
  double work(int64_t batch) const { return work_per_sample_ * static_cast<double>(batch); }

  const Kernels& kernels() const { return kernels_; }
  const char* method() const {
    return view_.code         ? code_.lanes ? "lanes" : "side by side"
           : !tables_.empty() ? "tables"
           : sums_.rows       ? "prefix sums"
           : !slices_.empty() ? "slices"
                              : "events";
  }
  // What runs which layer and why, in words.
  std::string why() const {
    return trains() > 0 ? why_ + ", from a table of " + std::to_string(trains()) + " spike trains" : why_;
  }
  // How many spike trains of the first layer are in a table by now; 0 as long as its neurons are run.
  int64_t trains() const {
    const TrainTable* table = trains_.load(std::memory_order_acquire);
    return table ? static_cast<int64_t>(table->trains.size()) : 0;
  }
  // Whether the last layer's output is made from how often its inputs spiked.
  bool counts_last() const { return view_.counted; }
  int64_t n_in() const { return view_.n_in; }
  int64_t n_out() const { return layers_.back().n_out; }
  int64_t n_layers() const { return view_.n_layers; }
  int64_t spiking_layers() const { return view_.n_layers - (layers_.back().fires ? 0 : 1); }
  bool encodes_spikes() const { return view_.encoding != 0; }
  bool has_exit() const { return view_.code && view_.code->exit != 0; }

 private:
  using Floats = std::unique_ptr<float, void (*)(void*)>;
  static Floats floats(int64_t count);  // zeroed, aligned to 64 bytes
  void pack(const LayerSpec& layer, float initial, bool fires, bool spikes);
  void build_tables(const NetworkSpec& spec);
  void build_code(const NetworkSpec& spec);
  bool build_digit_steps(const NetworkSpec& spec);
  const float* rows(const std::vector<float>& table, int64_t n, int64_t padded, float silent = 0.0f);
  void build_slices(const NetworkSpec& spec, const PlanOptions& options);
  void build_sums(const NetworkSpec& spec, const PlanOptions& options);
  std::optional<std::vector<IntegerRow>> rows_in_doubt(const NetworkSpec& spec, size_t l);
  void explain(const NetworkSpec& spec, const PlanOptions& options);
  const TrainsView* look_for_trains(int64_t batch) const;

  const Kernels& kernels_;
  std::vector<Floats> storage_;
  std::vector<LayerView> layers_;
  std::vector<TableView> tables_;
  std::vector<SliceView> slices_;
  SumsView sums_{};
  std::vector<CodeLayerView> code_layers_;
  struct DigitSteps {
    std::vector<DigitStepView> views;
    std::vector<uint32_t> neurons;
  };
  std::vector<DigitSteps> digit_steps_;
  std::vector<std::unique_ptr<bool[]>> active_;
  int64_t lanes_widest_ = 0;
  CodeView code_{};
  std::string why_;
  NetworkView view_{};
  // The first layer's trains: once they are there, they stay. See look_for_trains.
  bool may_have_trains_ = false;
  float initial_ = 0.0f;
  mutable std::atomic<const TrainTable*> trains_{nullptr};  // to read; what it points to is kept below
  mutable std::atomic<int64_t> without_trains_{0};          // samples
  mutable std::atomic_flag fetching_trains_ = ATOMIC_FLAG_INIT;
  mutable std::shared_ptr<const TrainTable> train_table_;
  int64_t scratch_bytes_ = 0;
  double work_per_sample_ = 0.0;
  mutable std::atomic<float> nanoseconds_[2] = {};  // that a sample took on one thread, without and with records
};

}  // namespace snnfast
