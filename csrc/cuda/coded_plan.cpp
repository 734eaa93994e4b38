// SPDX-License-Identifier: Apache-2.0
// The part of a Plan that is for networks with a code: one layout of weights and tables, one kernel.
#include <algorithm>
#include <limits>

#include "cuda/plan.h"

namespace snnfast::cuda {
namespace {

constexpr int64_t kNone = -1;
// Samples in shared memory beyond this would leave a multiprocessor too few warps to hide how long reading takes.
constexpr int64_t kMostShared = 32 << 10;

bool in_shared(int64_t bytes, const Device& device) {
  return kCodedWarps * bytes <= std::min(device.shared_bytes, kMostShared);
}

}  // namespace

// A table (rows, n) as the kernel reads it: (rows, padded), filled up with `silent`. Returns where it lies in packed_.
int64_t Plan::pack_rows(const std::vector<float>& table, int64_t n, int64_t padded, float silent) {
  if (table.empty()) return kNone;
  const auto begin = static_cast<int64_t>(packed_.size()), rows = static_cast<int64_t>(table.size()) / n;
  packed_.resize(static_cast<size_t>(round_up(begin + rows * padded, 64)), silent);
  for (int64_t i = 0; i < rows; ++i) {
    std::copy(table.begin() + i * n, table.begin() + (i + 1) * n, packed_.begin() + begin + i * padded);
  }
  return begin;
}

void Plan::make_coded(const NetworkSpec& spec) {
  const CodeSpec& code = spec.code;
  const auto n_layers = static_cast<int64_t>(spec.layers.size());
  require(n_layers <= kMostCodedLayers, "weights must be of at most " + std::to_string(kMostCodedLayers) +
                                            " layers on backend 'cuda' with a code, got " + std::to_string(n_layers));
  Coded& a = coded_launch_;
  a.n_layers = static_cast<int32_t>(n_layers);
  a.copies = std::max<int32_t>(1, static_cast<int32_t>(code.levels.size()));
  int64_t state = 0, widest = 0;
  for (int64_t l = 0; l < n_layers; ++l) {
    const LayerSpec& layer = spec.layers[static_cast<size_t>(l)];
    const int64_t n = layer.n_out, padded = round_up(n, 32);
    const bool hidden = l + 1 < n_layers;
    std::vector<float> inputs_along_rows(layer.weights.size());
    for (int64_t o = 0; o < n; ++o) {
      for (int64_t i = 0; i < layer.n_in; ++i) {
        inputs_along_rows[static_cast<size_t>(i * n + o)] = layer.weights[static_cast<size_t>(o * layer.n_in + i)];
      }
    }
    const std::vector<float> zeros(static_cast<size_t>(n), 0.0f);
    CodedTables tables{};
    tables.weights = pack_rows(inputs_along_rows, n, padded, 0.0f);
    tables.bias = pack_rows(layer.bias.empty() ? zeros : layer.bias, n, padded, 0.0f);
    tables.values = tables.thresholds = tables.guards = tables.drift = tables.rounding = kNone;
    if (hidden && code.kind == CodeKind::digits) {
      const auto at = static_cast<size_t>(l);
      constexpr float never = std::numeric_limits<float>::infinity();
      std::vector<float> thresholds = code.thresholds[at];
      for (size_t i = 0; i < thresholds.size(); ++i) {
        if (!(code.values[at][i] > 0.0f)) thresholds[i] = never;
      }
      tables.values = pack_rows(code.values[at], n, padded, 0.0f);
      tables.thresholds = pack_rows(thresholds, n, padded, never);
      if (!code.guards.empty()) tables.guards = pack_rows(code.guards[at], n, padded, 0.0f);
      if (!code.drift.empty()) {
        tables.drift = pack_rows(code.drift[at], n, padded, 0.0f);
        tables.rounding = pack_rows(code.rounding[at], n, padded, 0.0f);
      }
    }
    coded_tables_.push_back(tables);
    CodedLayer& to = a.layers[l];
    to.n_in = static_cast<int32_t>(layer.n_in);
    to.n_out = static_cast<int32_t>(n);
    to.padded = static_cast<int32_t>(padded);
    to.state = static_cast<int32_t>(state);
    if (hidden) state += padded;
    widest = std::max(widest, padded);
    layers_.push_back({layer.n_in, n, padded, 32, tables.weights, tables.bias, false, hidden, 0, 0});
  }
  require(state <= std::numeric_limits<int32_t>::max(), "neurons must be fewer than 2**31 on backend 'cuda'");
  a.state = static_cast<int32_t>(state);
  a.widest = static_cast<int32_t>(widest);
  a.floats = a.layers[0].padded + 2 * state + 4 * widest + 3 * a.layers[n_layers - 1].padded;
  a.kind = code.kind;
  a.signed_spikes = code.kind == CodeKind::digits ? code.guards.empty() : code.signed_spikes;
  a.ramp = code.ramp;
  a.radix = code.kind == CodeKind::radix;
  a.leaves = code.exit != ExitKind::none;
  a.mean = spec.decoding == Decoding::mean_potential;
  a.final_potential = spec.decoding == Decoding::potential;
  a.start = code.start;
  a.even_level = even_level(code.levels);
  a.even_inverse = a.even_level > 0.0f ? 1.0f / a.even_level : 0.0f;
  a.offset = code.offset;
  a.slack = code.slack;
  a.timesteps = spec.timesteps;
  const auto list = [&](const std::vector<float>& v) {
    const auto n = static_cast<int64_t>(v.size());
    return pack_rows(v, n, n, 0.0f);
  };
  coded_lists_ = {list(code.levels),   list(code.step_weights),
                  list(code.divisors), list(code.bounds),
                  list(code.left),     pack_rows(code.overtake, spec.n_out(), a.layers[n_layers - 1].padded, 0.0f),
                  list(code.largest)};
}

// How many samples a launch takes: all, unless what they carry is in memory and must fit there.
int64_t Plan::coded_rows(int64_t batch) const {
  const int64_t bytes = coded_launch_.floats * static_cast<int64_t>(sizeof(float));
  if (in_shared(bytes, device_)) return batch;
  return std::clamp<int64_t>(device_.workspace_bytes / bytes, 1, batch);
}

int64_t Plan::coded_workspace(int64_t batch) const {
  const int64_t bytes = coded_launch_.floats * static_cast<int64_t>(sizeof(float));
  return in_shared(bytes, device_) ? 0 : coded_rows(batch) * bytes;
}

void Plan::run_coded(const Request& request, const float* packed, void* workspace, void* stream) const {
  Coded a = coded_launch_;
  const auto at = [&](int64_t offset) { return offset == kNone ? nullptr : packed + offset; };
  for (size_t l = 0; l < coded_tables_.size(); ++l) {
    const CodedTables& tables = coded_tables_[l];
    const bool hidden = l + 1 < coded_tables_.size();
    CodedLayer& layer = a.layers[l];
    layer.weights = at(tables.weights);
    layer.bias = at(tables.bias);
    layer.values = at(tables.values);
    layer.thresholds = at(tables.thresholds);
    layer.guards = at(tables.guards);
    layer.drift = at(tables.drift);
    layer.rounding = at(tables.rounding);
    layer.counts = hidden && request.spike_counts ? request.spike_counts[l] : nullptr;
    layer.spikes = hidden && request.spikes ? request.spikes[l] : nullptr;
    layer.potentials = request.potentials ? request.potentials[l] : nullptr;
  }
  a.levels = at(coded_lists_.levels);
  a.step_weights = at(coded_lists_.step_weights);
  a.divisors = at(coded_lists_.divisors);
  a.bounds = at(coded_lists_.bounds);
  a.left = at(coded_lists_.left);
  a.overtake = at(coded_lists_.overtake);
  a.largest = at(coded_lists_.largest);
  a.batch = request.batch;
  a.output = request.output;
  a.steps = request.steps;
  a.certified = request.certified;
  a.saturated = request.saturated;
  a.memory = coded_workspace(request.batch) ? static_cast<float*>(workspace) : nullptr;
  const int64_t rows = coded_rows(request.batch);
  for (int64_t first = 0; first < request.batch; first += rows) {
    a.inputs = {request.observations,
                first,
                std::min(rows, request.batch - first),
                static_cast<int32_t>(spec_.n_in),
                static_cast<int32_t>(spec_.features),
                spec_.split,
                spec_.bias};
    coded(a, stream);
  }
}

}  // namespace snnfast::cuda
