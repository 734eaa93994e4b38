// SPDX-License-Identifier: Apache-2.0
// The CUDA backend against the CPU backend: random networks over all options, compared bit for bit. Compiled for the
// host it meets the host's sanitizers; compiled with CUDA it runs on a device, and meets compute-sanitizer there.
// Usage: parity <first seed> <how many>. Prints how many networks and methods were met, for the caller to check that
// nothing was left out.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <random>

#include "cpu/dispatch.h"
#include "cpu/plan.h"
#include "cuda/plan.h"
#include "device_memory.h"

namespace {

using namespace snnfast;
using Random = std::mt19937_64;

std::map<std::string, int> met;

template <class T>
T choose(Random& random, std::initializer_list<T> from) {
  return from.begin()[random() % from.size()];
}

// A code of any kind with any exit that it has; the neuron becomes the plain one that codes are made of. Tables are
// random too: what they mean is not the kernels' business.
void make_coded(Random& random, NetworkSpec& net) {
  CodeSpec& code = net.code;
  code.kind = choose(
      random, {CodeKind::rate, CodeKind::rate, CodeKind::staged, CodeKind::radix, CodeKind::digits, CodeKind::digits});
  if (net.layers.size() == 1) code.kind = CodeKind::rate;  // the others need a hidden layer
  net.neuron.delayed = net.neuron.reset_to_zero = false;
  net.neuron.alpha = 0.0f;
  net.neuron.beta = 1.0f;
  net.encoding = Encoding::constant;
  net.decoding = Decoding::potential;
  net.timesteps = choose<int64_t>(random, {1, 2, 5, 12, 20});
  const int64_t steps = net.timesteps, n_out = net.n_out();
  std::uniform_real_distribution<float> uniform(0.0f, 1.0f);
  const auto numbers = [&](int64_t n, float scale, float offset = 0.0f) {
    std::vector<float> some;
    for (int64_t i = 0; i < n; ++i) some.push_back(offset + scale * uniform(random));
    return some;
  };
  const bool counts = code.kind == CodeKind::rate || code.kind == CodeKind::staged;
  if (counts) {
    code.start = uniform(random) * net.neuron.threshold;
    code.levels = numbers(choose<int64_t>(random, {1, 2, 3, 4, 9}), net.neuron.threshold);
    std::sort(code.levels.begin(), code.levels.end());
    const bool even = random() % 2;
    for (size_t i = 0; even && i < code.levels.size(); ++i) code.levels[i] = 0.25f * static_cast<float>(i + 1);
  }
  code.signed_spikes = code.kind == CodeKind::rate && random() % 2;
  code.ramp = code.kind == CodeKind::staged && random() % 2;
  if (!counts) net.neuron.threshold = 1.0f;
  if (code.kind == CodeKind::radix) code.offset = 0.5f;
  const bool guarded = random() % 3 == 0, leaves = n_out > 1 && random() % 3 != 0;
  if (code.kind == CodeKind::rate) {
    net.decoding = choose(random, {Decoding::potential, Decoding::mean_potential, Decoding::parabolic_potential});
    if (net.decoding == Decoding::parabolic_potential) code.step_weights = numbers(steps, 1.0f);
  }
  if (leaves && code.kind == CodeKind::rate) {
    code.exit = ExitKind::calibrated;
    for (int64_t t = 1; t <= steps; ++t) code.divisors.push_back(static_cast<float>(t));
  }
  if (leaves && code.kind == CodeKind::digits)
    code.exit = choose(random, {ExitKind::calibrated, ExitKind::certified, ExitKind::certified});
  if (leaves && code.kind == CodeKind::radix) code.exit = ExitKind::certified;
  if (code.exit == ExitKind::calibrated) code.bounds = numbers(steps, 2.0f);
  if (code.exit == ExitKind::certified) code.slack = 1e-5f;
  if (code.exit == ExitKind::certified && code.kind == CodeKind::radix) {
    for (int64_t t = 1; t <= steps; ++t) code.left.push_back(std::ldexp(1.0f, static_cast<int>(steps - t)) - 1.0f);
    code.overtake = numbers(n_out * n_out, -2.0f / std::ldexp(1.0f, static_cast<int>(steps)));
  }
  for (size_t l = 0; l + 1 < net.layers.size() && code.kind == CodeKind::digits; ++l) {
    const int64_t n = steps * net.layers[l].n_out;
    std::vector<float> values = numbers(n, 0.5f, 0.5f), thresholds, drift = numbers(n, 0.2f);
    for (size_t i = 0; i < values.size(); ++i) {  // they fall from step to step, and some neurons are silent
      const int step = static_cast<int>(static_cast<int64_t>(i) / net.layers[l].n_out);
      values[i] = random() % 6 == 0 ? 0.0f : std::ldexp(values[i], -step);
      thresholds.push_back(values[i] * 0.6f);
      drift[i] = std::ldexp(drift[i], -step);
    }
    code.values.push_back(std::move(values));
    code.thresholds.push_back(std::move(thresholds));
    if (guarded) code.guards.push_back(numbers(n, 0.2f));
    if (code.exit != ExitKind::certified) continue;
    code.drift.push_back(std::move(drift));
    code.rounding.push_back(numbers(net.layers[l].n_out, 0.02f));
    if (l == 0) code.largest = numbers(net.layers[0].n_in, 1.0f);
  }
}

NetworkSpec random_network(Random& random) {
  NetworkSpec net;
  const int64_t layers = choose<int64_t>(random, {1, 2, 2, 3, 3, 4});
  std::vector<int64_t> sizes;
  const bool small = random() % 2;  // half of them within reach of the method for small networks
  for (int64_t l = 0; l <= layers; ++l) {
    sizes.push_back(small ? choose<int64_t>(random, {1, 2, 3, 4, 8, 15, 16})
                          : choose<int64_t>(random, {1, 5, 9, 16, 31, 32, 33, 40, 64, 127, 128, 129, 150, 300}));
  }
  NeuronSpec& n = net.neuron;
  const bool plain = random() % 3 == 0;  // what convert() makes; the method for small networks runs nothing else
  n.delayed = random() % 2;
  if (!plain) {
    n.reset_to_zero = random() % 2;
    n.alpha = choose(random, {0.0f, 0.0f, 0.5f, 0.9f});
    n.beta = choose(random, {1.0f, 1.0f, 0.9f, 0.0f, 2.0f});
  }
  n.threshold = choose(random, {1.0f, 1.0f, 0.7f, 3.5f});
  n.initial_membrane = choose(random, {0.0f, 0.5f, 1.5f, -1.0f}) * n.threshold;
  net.timesteps = choose<int64_t>(random, {1, 2, 5, 16, 33});
  net.decoding = choose(random, {Decoding::potential, Decoding::mean_potential});
  if (!plain) {
    net.encoding = choose(random, {Encoding::constant, Encoding::equidistant, Encoding::poisson});
    net.decoding =
        choose(random, {Decoding::potential, Decoding::mean_potential, Decoding::spikes, Decoding::first_spike});
    net.split_inputs = random() % 3 == 0;
    net.bias_input = random() % 3 == 0;
  }
  std::normal_distribution<float> normal;
  // Weights on a coarse grid, a fine one, or none: what fits two slices, three, or no exact ones.
  const float grid = choose(random, {0.0f, 0.0f, 0.015625f, 0x1p-16f});
  for (int64_t l = 0; l < layers; ++l) {
    LayerSpec layer;
    layer.n_in = sizes[static_cast<size_t>(l)];
    if (l == 0) layer.n_in = (layer.n_in + (net.bias_input ? 1 : 0)) * (net.split_inputs ? 2 : 1);
    layer.n_out = sizes[static_cast<size_t>(l + 1)];
    const float scale = 1.5f / std::sqrt(static_cast<float>(layer.n_in));
    for (int64_t i = 0; i < layer.n_in * layer.n_out; ++i) layer.weights.push_back(normal(random) * scale);
    if (grid > 0.0f) {
      for (float& w : layer.weights) w = std::nearbyint(w / grid) * grid;
    }
    if (random() % 4 != 0) {
      for (int64_t i = 0; i < layer.n_out; ++i) layer.bias.push_back(normal(random) * 0.3f);
    }
    net.layers.push_back(std::move(layer));
  }
  if (random() % 4 == 0) make_coded(random, net);
  return net;
}

// Where everything that a call may write lies: Array is std::vector<float> or memory of the device, each of the exact
// size and full of a pattern that is no answer.
template <class Array, class Request>
struct Results {
  Array output, input_counts, steps, certified, saturated;
  std::vector<Array> counts, spikes, potentials;
  std::vector<float*> counts_at, spikes_at, potentials_at;

  Results(const NetworkSpec& net, int64_t batch) {
    const auto array = [](int64_t n) { return Array(std::vector<float>(static_cast<size_t>(n), -7.25e-5f)); };
    output = array(batch * net.n_out());
    const bool coded = net.code.kind != CodeKind::none;
    for (Array* told : {&steps, &certified, &saturated}) *told = array(coded ? batch : 0);
    input_counts = array(net.encoding == Encoding::constant ? 0 : batch * net.features());
    for (size_t l = 0; l < net.layers.size(); ++l) {
      const int64_t n = net.layers[l].n_out;
      potentials.push_back(array(net.timesteps * batch * n));
      if (l + 1 == net.layers.size() && !net.last_layer_fires()) continue;
      counts.push_back(array(batch * n));
      spikes.push_back(array(net.timesteps * batch * n));
    }
    for (Array& a : counts) counts_at.push_back(a.data());
    for (Array& a : spikes) spikes_at.push_back(a.data());
    for (Array& a : potentials) potentials_at.push_back(a.data());
  }

  Request request(const float* observations, int64_t batch, uint64_t seed, uint64_t first, bool simulate, bool record) {
    Request r{};
    r.observations = observations;
    r.batch = batch;
    r.seed = seed;
    r.first_sample = first;
    r.output = output.data();
    if (simulate) {
      r.spike_counts = counts_at.data();
      r.input_counts = input_counts.size() == 0 ? nullptr : input_counts.data();
      if (steps.size()) r.steps = steps.data(), r.certified = certified.data(), r.saturated = saturated.data();
    }
    if (record) {
      r.spikes = spikes_at.data();
      r.potentials = potentials_at.data();
    }
    return r;
  }
};

int64_t different(const DeviceArray& got, const std::vector<float>& want) {
  const std::vector<float> a = got.copy();
  int64_t n = a.size() == want.size() ? 0 : 1;
  for (size_t i = 0; i < std::min(a.size(), want.size()); ++i) n += std::memcmp(&a[i], &want[i], sizeof(float)) != 0;
  return n;
}

int64_t different(const std::vector<DeviceArray>& got, const std::vector<std::vector<float>>& want) {
  int64_t n = got.size() == want.size() ? 0 : 1;
  for (size_t i = 0; i < std::min(got.size(), want.size()); ++i) n += different(got[i], want[i]);
  return n;
}

int64_t check(uint64_t seed) {
  Random random(seed);
  const NetworkSpec net = random_network(random);
  const int64_t batch = choose<int64_t>(random, {1, 2, 5, 9, 9, 33});
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<float> uniform(-0.2f, 1.3f);
  std::vector<float> observations;
  for (int64_t i = 0; i < batch * net.n_in(); ++i) {
    const bool numbers = net.encoding == Encoding::constant || net.split_inputs;
    observations.push_back(random() % 10 == 0 ? 0.0f : numbers ? normal(random) : uniform(random));
  }
  const uint64_t first_sample = random() % 3 == 0 ? (uint64_t{1} << 32) - 2 : 0;

  // Devices with little shared memory or workspace take the other ways.
  cuda::Device device{choose<int64_t>(random, {0, 4 << 10, 48 << 10, 227 << 10}), choose<int64_t>(random, {1, 3, 132}),
                      random() % 4 != 0};
#if defined(SNNFAST_ON_DEVICE)
  // But not with more than it has.
  int most = 0, major = 0;
  if (cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0) != cudaSuccess ||
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0) != cudaSuccess) {
    throw std::runtime_error("asking for the device's limits failed");
  }
  device.shared_bytes = std::min<int64_t>(device.shared_bytes, most);
  device.tensor_cores = device.tensor_cores && major >= 8;
#endif
  if (random() % 2) device.workspace_bytes = choose<int64_t>(random, {1, 3000, 100000});
  const bool exact = random() % 2;
  const cuda::Plan plan(net, device, exact);
  if (plan.workspace_bytes(int64_t{1} << 32, true) > 3 * device.workspace_bytes + (1 << 20)) {
    throw std::logic_error("a large batch takes more workspace than it may");
  }

  // Without the exact contract matrix products have the bits of the CPU backend's.
  PlanOptions options;
  if (!exact && plan.sliced_layers() > 0) {
    if (plan.sliced_layers() != plan.n_layers() - 1) throw std::logic_error("only some layers are sliced");
    options = {false, Method::slices};
  }
  const snnfast::Plan cpu(net, options.method == Method::slices ? kernels_with_slices() : default_kernels(), options);
  Results<std::vector<float>, snnfast::Request> want(net, batch);
  cpu.run(want.request(observations.data(), batch, seed, first_sample, true, true),
          {[](void*) { return false; }, nullptr});

  const DeviceArray packed(plan.packed()), observed(observations);
  int64_t wrong = 0;
  for (int mode = 0; mode < 3; ++mode) {  // the output alone, with counts, with records
    const bool simulate = mode > 0, record = mode > 1;
    Results<DeviceArray, Request> got(net, batch);
    const DeviceBytes workspace(plan.workspace_bytes(batch, simulate));
    plan.run(got.request(observed.data(), batch, seed, first_sample, simulate, record), packed.data(), workspace.data(),
             nullptr);
    wrong += different(got.output, want.output);
    if (simulate) {
      wrong += different(got.counts, want.counts) + different(got.input_counts, want.input_counts);
      wrong += different(got.steps, want.steps) + different(got.certified, want.certified);
      wrong += different(got.saturated, want.saturated);
    }
    if (record) wrong += different(got.spikes, want.spikes) + different(got.potentials, want.potentials);
    ++met[mode > 0 && plan.method() == std::string("tiny") ? "events" : plan.method()];
  }
  if (wrong) std::printf("seed %llu: %lld numbers differ\n", static_cast<unsigned long long>(seed), (long long)wrong);
  return wrong;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return std::fprintf(stderr, "usage: parity <first seed> <how many>\n"), 2;
  const uint64_t first = std::strtoull(argv[1], nullptr, 10), count = std::strtoull(argv[2], nullptr, 10);
  int64_t wrong = 0;
  for (uint64_t seed = first; seed < first + count; ++seed) wrong += check(seed) != 0;
  std::printf("networks %llu, different %lld", static_cast<unsigned long long>(count), (long long)wrong);
  for (const auto& [name, n] : met) std::printf(", %s %d", name.c_str(), n);
  std::printf("\n");
  return wrong != 0;
}
