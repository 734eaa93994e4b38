// SPDX-License-Identifier: Apache-2.0
// Runs the same random networks on every instruction set that this processor has, and hashes every bit of every result:
// outputs, spike counts, spikes and membrane potentials. Needs neither Python nor torch, so it also runs where only an
// emulator is at hand. Networks come from an integer generator and correctly rounded arithmetic: machines can be
// compared by their hashes alone.
//
//   parity [--only ISA] [--each] [--other-mode] NETWORKS
//
// --other-mode: plans are made and run by threads that flush to zero and round otherwise; that must not matter.
// Prints `isa=<name> networks=<n> hash=<hex>` per instruction set (with --each also one line per network). Exit status:
// 0, 1 if the sets or the ways to run disagree, 2 if the arguments are wrong.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "core/float_mode.h"
#include "core/spec.h"
#include "cpu/dispatch.h"
#include "cpu/kernels.h"
#include "cpu/plan.h"
#include "cpu/thread_pool.h"

using namespace snnfast;

namespace {

int g_problems = 0;

void problem(int64_t network, const char* isa, const std::string& what) {
  std::printf("PROBLEM network=%lld isa=%s: %s\n", static_cast<long long>(network), isa, what.c_str());
  ++g_problems;
}

bool g_other_mode = false;

// As long as it lives, this thread computes as programs do that do not care for the last bit; if that was asked for.
class PerhapsOtherMode {
 public:
  PerhapsOtherMode() {
    if (g_other_mode) set_float_mode(float_mode() | kOtherModes);
  }
  PerhapsOtherMode(const PerhapsOtherMode&) = delete;
  PerhapsOtherMode& operator=(const PerhapsOtherMode&) = delete;

 private:
  const KeptFloatMode before_;
};

const Interrupt kNoInterrupt{[](void*) { return false; }, nullptr};

// SplitMix64 (Steele, Lea and Flood 2014). The distributions of the standard library differ between libraries.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t bits() {
    uint64_t z = (state_ += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  int64_t below(int64_t n) { return static_cast<int64_t>((bits() >> 33) % static_cast<uint64_t>(n)); }
  bool chance(int64_t percent) { return below(100) < percent; }
  float uniform() { return static_cast<float>(bits() >> 40) * 0x1p-24f; }
  // Variance 1, four uniform numbers wide: near enough to a normal distribution for weights.
  float normal() {
    float sum = -2.0f;
    for (int i = 0; i < 4; ++i) sum += uniform();
    return sum * 1.7320508f;
  }
  template <class T>
  T pick(std::initializer_list<T> list) {
    return list.begin()[below(static_cast<int64_t>(list.size()))];
  }

 private:
  uint64_t state_;
};

// FNV-1a with words of 32 bits in place of bytes. Every step is a bijection of the state, so one differing number
// always makes a differing hash.
struct Hash {
  uint64_t state = 0xCBF29CE484222325u;
  void add(uint32_t word) { state = (state ^ word) * 0x100000001B3u; }
  void add(uint64_t words) {
    add(static_cast<uint32_t>(words));
    add(static_cast<uint32_t>(words >> 32));
  }
};

uint32_t bits_of(float x) {
  uint32_t word;
  std::memcpy(&word, &x, sizeof word);
  return word;
}

// Room for a result. Starts out as a NaN that no arithmetic makes, and is longer than asked for: so numbers that were
// not written are seen, and so are numbers written beyond the end.
class Room {
 public:
  explicit Room(int64_t size) : size_(static_cast<size_t>(size)), numbers_(size_ + kGuard) {
    const uint32_t unwritten = kUnwritten;
    for (float& x : numbers_) std::memcpy(&x, &unwritten, sizeof x);
  }
  float* data() { return numbers_.data(); }
  // Says what is wrong, or nothing; the bits go into the hash.
  const char* hash_into(Hash& hash) const {
    const char* wrong = nullptr;
    for (size_t i = 0; i < size_; ++i) {
      const uint32_t word = bits_of(numbers_[i]);
      if (word == kUnwritten) wrong = "numbers were left unwritten";
      hash.add(word);
    }
    for (size_t i = size_; i < numbers_.size(); ++i) {
      if (bits_of(numbers_[i]) != kUnwritten) wrong = "numbers were written beyond the end";
    }
    return wrong;
  }

 private:
  static constexpr uint32_t kUnwritten = 0x7FA5A5A5u;  // a signalling NaN
  static constexpr size_t kGuard = 64;
  size_t size_;
  std::vector<float> numbers_;
};

struct Network {
  int64_t index;
  NetworkSpec spec;
  int64_t batch;
  uint64_t seed, first_sample;
  std::vector<float> observations;
};

// Around every number of lanes and of vectors in a panel, for vectors of 4, 8 and 16.
int64_t any_width(Random& random) {
  return random.pick<int64_t>({1,  2,  3,  4,  5,  7,  8,  9,  12, 15, 16, 17, 18, 20, 24,  25,  28,  31, 32,
                               33, 34, 40, 45, 47, 48, 49, 55, 60, 62, 63, 64, 65, 97, 127, 129, 130, 200});
}

// Which networks serve a purpose of their own; all the others are drawn from the whole range of options.
bool is_tables(int64_t index) { return index % 4 == 1; }             // small, so looked up in tables
bool is_trained(int64_t index) { return index % 16 == 5; }           // of these: plain neurons, batches of groups
bool is_batch_by_tables(int64_t index) { return index % 32 == 13; }  // of these: large enough for two threads
bool is_coded(int64_t index) { return index % 8 == 4; }              // copies, signed spikes, turns, digits
bool is_batch(int64_t index) { return index % 32 == 7; }             // wide layers, large enough for two threads
bool is_tiled(int64_t index) { return index % 128 == 63; }           // so wide that time is cut into tiles

std::vector<int64_t> make_sizes(int64_t index, Random& random) {
  if (is_tiled(index)) return {2, 4000, 3};
  if (is_tables(index)) {
    std::vector<int64_t> sizes{random.pick<int64_t>({1, 2, 3, 4, 8, 17})};
    for (int64_t left = random.pick<int64_t>({1, 2}); left > 0; --left) {
      // Every table has two to the power of this many entries, so the widest are rare.
      sizes.push_back(
          is_batch_by_tables(index) || random.chance(10) ? 16 : random.pick<int64_t>({1, 2, 3, 4, 5, 7, 8, 9, 10, 12}));
    }
    sizes.push_back(random.pick<int64_t>({1, 2, 3, 4, 5, 8, 9, 15, 16}));
    return sizes;
  }
  std::vector<int64_t> sizes{random.pick<int64_t>({1, 2, 3, 4, 5, 8, 33})};
  for (int64_t left = random.pick<int64_t>({1, 2, 2, 3, 3, 4}); left > 0; --left) {
    sizes.push_back(random.chance(50) ? any_width(random) : random.pick<int64_t>({1, 2, 3, 4, 5, 7, 8, 9}));
  }
  if (is_batch(index)) sizes[1] = random.pick<int64_t>({65, 130, 200});
  return sizes;
}

// A code of any kind, for hidden layers of these sizes; the neuron becomes the plain one that codes are made of.
void make_coded(Random& random, const std::vector<int64_t>& sizes, NetworkSpec& spec) {
  spec.neuron.delayed = spec.neuron.reset_to_zero = false;
  spec.neuron.alpha = 0.0f;
  spec.neuron.beta = 1.0f;
  spec.encoding = Encoding::constant;
  spec.decoding = Decoding::potential;
  spec.split_inputs = spec.bias_input = false;
  spec.timesteps = random.pick<int64_t>({1, 5, 12, 20});
  CodeSpec& code = spec.code;
  code.kind = random.pick({CodeKind::rate, CodeKind::rate, CodeKind::staged, CodeKind::radix, CodeKind::digits});
  if (sizes.size() < 3) code.kind = CodeKind::rate;  // the others need a hidden layer
  const auto numbers = [&](int64_t n) {
    std::vector<float> some;
    for (int64_t i = 0; i < n; ++i) some.push_back(random.uniform());
    return some;
  };
  if (code.kind == CodeKind::rate || code.kind == CodeKind::staged) {
    code.start = random.uniform();
    code.levels = numbers(random.pick<int64_t>({1, 2, 3, 4, 9}));
    std::sort(code.levels.begin(), code.levels.end());
    const bool even = random.chance(50);
    for (size_t i = 0; even && i < code.levels.size(); ++i) code.levels[i] = 0.25f * static_cast<float>(i + 1);
    code.signed_spikes = code.kind == CodeKind::rate && random.chance(50);
    code.ramp = code.kind == CodeKind::staged && random.chance(50);
  } else {
    spec.neuron.threshold = 1.0f;
    spec.neuron.initial_membrane = 0.0f;
  }
  if (code.kind == CodeKind::radix) code.offset = 0.5f;
  const bool guarded = random.chance(30);
  for (size_t l = 1; code.kind == CodeKind::digits && l + 1 < sizes.size(); ++l) {
    code.values.push_back(numbers(spec.timesteps * sizes[l]));
    code.thresholds.push_back(numbers(spec.timesteps * sizes[l]));
    if (guarded) code.guards.push_back(numbers(spec.timesteps * sizes[l]));
  }
  if (code.kind == CodeKind::rate) {
    if (random.chance(50)) spec.decoding = Decoding::mean_potential;
    if (sizes.back() > 1 && random.chance(50)) {
      code.exit = ExitKind::calibrated;
      code.bounds = numbers(spec.timesteps);
      for (int64_t t = 1; t <= spec.timesteps; ++t) code.divisors.push_back(static_cast<float>(t));
    }
  }
}

Network make_network(int64_t index) {
  Random random(static_cast<uint64_t>(index) * 0x9FB21C651E98DF25u + 1);
  Network net{};
  net.index = index;
  NetworkSpec& spec = net.spec;
  const std::vector<int64_t> sizes = make_sizes(index, random);

  NeuronSpec& neuron = spec.neuron;
  neuron.delayed = random.chance(50);
  neuron.reset_to_zero = random.chance(33);
  neuron.alpha = random.pick({0.0f, 0.0f, 0.5f, 0.9f});
  neuron.beta = random.pick({1.0f, 1.0f, 0.9f, 0.0f, 2.0f});
  neuron.threshold = random.pick({1.0f, 1.0f, 0.7f, 3.5f});
  neuron.initial_membrane = random.pick({0.0f, 0.5f, 0.5f, 1.5f, -1.0f}) * neuron.threshold;
  spec.timesteps = random.pick<int64_t>({1, 2, 5, 16, 33});
  spec.encoding = random.pick({Encoding::constant, Encoding::constant, Encoding::equidistant, Encoding::poisson});
  spec.decoding = random.pick(
      {Decoding::potential, Decoding::potential, Decoding::mean_potential, Decoding::spikes, Decoding::first_spike});
  spec.split_inputs = random.chance(30);
  spec.bias_input = random.chance(30);
  net.batch = std::initializer_list<int64_t>{1, 2, 5, 9, 0, 1, 2, 5, 9, 3}.begin()[index % 10];
  net.seed = random.bits();
  net.first_sample = random.chance(50) ? 0 : random.bits();

  if (is_tables(index)) {
    spec.encoding = Encoding::constant;
    spec.decoding = random.pick({Decoding::potential, Decoding::mean_potential});
    spec.split_inputs = spec.bias_input = false;
  }
  if (is_trained(index)) {
    neuron = NeuronSpec{};
    neuron.threshold = random.pick({1.0f, 0.7f});
    neuron.initial_membrane = random.pick({0.0f, 0.5f}) * neuron.threshold;
    net.batch = 24;  // cut as below, both parts are large enough
  }
  if (is_batch_by_tables(index) || is_batch(index)) {
    spec.timesteps = is_batch(index) ? 33 : 280;
    net.batch = 70;
  }
  if (is_coded(index)) {
    make_coded(random, sizes, spec);
    net.batch = random.pick<int64_t>({1, 5, 19, 40});  // lanes of every instruction set, filled and not
  }
  if (is_tiled(index)) {
    spec.timesteps = 70;
    net.batch = 2;
  }

  // Now and then sums that overflow, or stay below the smallest normal number.
  const float scale = random.chance(94) ? 1.0f : random.pick({1e37f, 1e-39f});
  const int64_t n_in = sizes[0], plain = n_in + (spec.bias_input ? 1 : 0);
  for (size_t l = 0; l + 1 < sizes.size(); ++l) {
    LayerSpec layer;
    layer.n_in = l > 0 ? sizes[l] : plain * (spec.split_inputs ? 2 : 1);
    layer.n_out = sizes[l + 1];
    const float spread = 1.5f * scale / std::sqrt(static_cast<float>(layer.n_in));
    for (int64_t i = 0; i < layer.n_in * layer.n_out; ++i) layer.weights.push_back(random.normal() * spread);
    if (random.chance(75)) {
      for (int64_t i = 0; i < layer.n_out; ++i) layer.bias.push_back(random.normal() * 0.3f);
    }
    spec.layers.push_back(std::move(layer));
  }
  const bool probabilities = spec.encoding != Encoding::constant && !spec.split_inputs;
  for (int64_t i = 0; i < net.batch * n_in; ++i) {
    const float x = probabilities ? random.uniform() * 1.5f - 0.2f : random.normal();
    net.observations.push_back(random.chance(10) ? random.pick({0.0f, -0.0f}) : x);
  }
  return net;
}

enum class Records { output, counts, all };

// Runs samples begin .. end - 1 of the network; adds the bits of the output to one hash and of the records to another.
void run_samples(const Network& net, const Plan& plan, int64_t begin, int64_t end, Records records, Hash& output_hash,
                 Hash& records_hash) {
  const int64_t batch = end - begin, steps = net.spec.timesteps;
  Request request{};
  request.observations = net.observations.data() + begin * plan.n_in();
  request.batch = batch;
  request.seed = net.seed;
  request.first_sample = net.first_sample + static_cast<uint64_t>(begin);
  Room output(batch * plan.n_out());
  request.output = output.data();

  std::vector<Room> counts, spikes, potentials, input_counts;
  std::vector<float*> counts_at, spikes_at, potentials_at;
  const auto make = [](std::vector<Room>& rooms, std::vector<float*>& at, int64_t size) {
    rooms.emplace_back(size);
    at.push_back(rooms.back().data());  // the numbers stay where they are when the vector of rooms grows
  };
  if (records != Records::output) {
    for (int64_t l = 0; l < plan.n_layers(); ++l) {
      const int64_t size = batch * net.spec.layers[static_cast<size_t>(l)].n_out;
      if (records == Records::all) make(potentials, potentials_at, steps * size);
      if (l >= plan.spiking_layers()) continue;
      make(counts, counts_at, size);
      if (records == Records::all) make(spikes, spikes_at, steps * size);
    }
    request.spike_counts = counts_at.data();
    if (plan.encodes_spikes()) {
      input_counts.emplace_back(batch * net.spec.features());
      request.input_counts = input_counts.back().data();
    }
    if (records == Records::all) {
      request.spikes = spikes_at.data();
      request.potentials = potentials_at.data();
    }
  }

  const char* isa = plan.kernels().isa;
  const auto run = [&] {
    const PerhapsOtherMode mode;
    return plan.run(request, kNoInterrupt);
  };
  if (!run()) problem(net.index, isa, "the run says that it was interrupted");
  if (const char* wrong = output.hash_into(output_hash)) problem(net.index, isa, std::string("output: ") + wrong);
  const std::pair<const char*, const std::vector<Room>*> parts[] = {
      {"spike counts", &counts}, {"input counts", &input_counts}, {"spikes", &spikes}, {"potentials", &potentials}};
  for (const auto& [name, rooms] : parts) {
    for (const Room& room : *rooms) {
      if (const char* wrong = room.hash_into(records_hash)) {
        problem(net.index, isa, std::string(name) + ": " + wrong);
      }
    }
  }
}

// One layer by itself, with numbers of its own.
void run_layer_over_time(int64_t index, const Kernels& kernels, Hash& hash) {
  Random random(static_cast<uint64_t>(index) * 0xD6E8FEB86659FD93u + 2);
  const bool long_and_wide = index % 32 == 5;
  const int64_t width = long_and_wide ? random.pick<int64_t>({1003, 1024, 2500}) : any_width(random);
  const int64_t steps = long_and_wide ? 70 : random.pick<int64_t>({0, 1, 5, 50});
  const float threshold = random.pick({0.5f, 0.7f, 1.0f});
  const bool delayed = random.chance(50);
  std::vector<float> current;
  for (int64_t i = 0; i < steps * width; ++i) current.push_back(random.normal());
  Room membrane(width), spikes(steps * width);
  for (int64_t i = 0; i < width; ++i) membrane.data()[i] = random.uniform();
  const int64_t cut = random.below(width + 1);
  bool finished = true;
  for (const auto& [first, last] : {std::pair<int64_t, int64_t>{0, cut}, {cut, width}}) {
    finished = kernels.if_forward(current.data(), membrane.data(), spikes.data(), steps, width, first, last, threshold,
                                  delayed, kNoInterrupt) &&
               finished;
  }
  if (!finished) problem(index, kernels.isa, "if_forward says that it was interrupted");
  for (const Room* room : {&membrane, &spikes}) {
    if (const char* wrong = room->hash_into(hash)) problem(index, kernels.isa, std::string("if_forward: ") + wrong);
  }
}

// Everything that one instruction set makes of one network. The ways to run it must agree among themselves.
uint64_t run_network(const Network& net, const Plan& plan) {
  const char* isa = plan.kernels().isa;
  Hash everything;
  uint64_t output_state = 0, all_state = 0;
  const bool coded = net.spec.code.kind != CodeKind::none;  // their records have sizes of their own
  for (int threads : {1, 2}) {
    set_num_threads(threads);
    Hash all, counts;
    for (Records records : {Records::all, Records::counts, Records::output}) {
      if (coded && records == Records::all) continue;
      Hash output, rest;
      if (records == Records::output) {  // in two calls: a sample must not know which batch it came in
        const int64_t cut = net.batch / 3;
        run_samples(net, plan, 0, cut, records, output, rest);
        run_samples(net, plan, cut, net.batch, records, output, rest);
      } else {
        run_samples(net, plan, 0, net.batch, records, output, rest);
      }
      if (threads == 1 && records == (coded ? Records::counts : Records::all)) {
        output_state = output.state;
        all_state = rest.state;
        everything.add(output.state);
        everything.add(rest.state);
      }
      if (output.state != output_state) problem(net.index, isa, "the output depends on threads, records or the batch");
      if (records == Records::all && rest.state != all_state) problem(net.index, isa, "records depend on threads");
      if (records == Records::counts) everything.add(rest.state);
    }
  }
  Hash layer;
  run_layer_over_time(net.index, plan.kernels(), layer);
  everything.add(layer.state);
  return everything.state;
}

Plan make_plan(const NetworkSpec& spec, const Kernels& kernels, const PlanOptions& options = {}) {
  const PerhapsOtherMode mode;
  return Plan(spec, kernels, options);
}

bool may_go_by_prefix_sums(const NetworkSpec& spec) {
  const NeuronSpec& neuron = spec.neuron;
  return spec.layers.size() > 1 && spec.code.kind == CodeKind::none && spec.encoding == Encoding::constant &&
         neuron.alpha == 0.0f && neuron.beta == 1.0f && !neuron.reset_to_zero;
}

// Whether such sums' spikes can be made certain.
bool may_be_certain(const NetworkSpec& spec) {
  int64_t widest = spec.features();
  for (const LayerSpec& layer : spec.layers) widest = std::max(widest, layer.n_out);
  return may_go_by_prefix_sums(spec) && (spec.layers.size() > 2 || spec.last_layer_fires()) && !spec.neuron.delayed &&
         spec.timesteps <= 128 && widest <= 1024;
}

struct Arguments {
  std::string only;
  bool each = false;
  int64_t networks = 0;
};

bool parse(int argc, char** argv, Arguments& arguments) {
  for (int i = 1; i < argc; ++i) {
    const std::string text = argv[i];
    if (text == "--only" && i + 1 < argc) {
      arguments.only = argv[++i];
    } else if (text == "--each") {
      arguments.each = true;
    } else if (text == "--other-mode") {
      g_other_mode = true;
    } else {
      char* end = nullptr;
      arguments.networks = std::strtoll(text.c_str(), &end, 10);
      if (*end != '\0' || arguments.networks < 1) return false;
    }
  }
  return arguments.networks >= 1;
}

int compare(const Arguments& arguments) {
  std::vector<const Kernels*> sets = supported_kernels();
  if (!arguments.only.empty()) sets = {&kernels_for(arguments.only)};
  std::vector<Hash> hashes(sets.size());
  int64_t by_tables = 0, trained = 0, summed = 0, certain = 0;
  for (int64_t i = 0; i < arguments.networks; ++i) {
    const Network net = make_network(i);
    uint64_t first = 0, first_by_sums = 0;
    for (size_t s = 0; s < sets.size(); ++s) {
      const Plan plan = make_plan(net.spec, *sets[s]);
      const uint64_t state = run_network(net, plan);
      hashes[s].add(state);
      if (s == 0) {
        first = state;
        by_tables += std::strcmp(plan.method(), "tables") == 0;
      }
      if (state != first) problem(i, sets[s]->isa, std::string("bits differ from ") + sets[0]->isa);
      if (std::strcmp(plan.method(), "tables") == 0) {  // made to order, they have the first layer's trains at once
        PlanOptions options;
        options.method = Method::tables;
        const Plan at_once = make_plan(net.spec, *sets[s], options);
        if (run_network(net, at_once) != state) problem(i, sets[s]->isa, "bits differ with a table of trains");
        trained += at_once.trains() > 0;
      }
      if (may_go_by_prefix_sums(net.spec)) {  // not the exact bits, but the same everywhere
        PlanOptions options;
        options.method = Method::prefix_sums;
        options.exact = false;
        const uint64_t sums_state = run_network(net, make_plan(net.spec, *sets[s], options));
        if (s == 0) first_by_sums = sums_state;
        if (sums_state != first_by_sums) problem(i, sets[s]->isa, "bits of prefix sums differ");
        hashes[s].add(sums_state);
        summed += sums_state != state;  // so it really ran
      }
      if (may_be_certain(net.spec)) {
        PlanOptions options;
        options.method = Method::prefix_sums;
        if (run_network(net, make_plan(net.spec, *sets[s], options)) != state) {
          problem(i, sets[s]->isa, "bits of prefix sums made certain differ");
        }
        ++certain;
      }
      if (arguments.each) {
        std::printf("network=%lld isa=%s hash=%016llx\n", static_cast<long long>(i), sets[s]->isa,
                    static_cast<unsigned long long>(state));
      }
    }
  }
  for (size_t s = 0; s < sets.size(); ++s) {
    std::printf("isa=%s networks=%lld hash=%016llx\n", sets[s]->isa, static_cast<long long>(arguments.networks),
                static_cast<unsigned long long>(hashes[s].state));
  }
  std::printf("by_tables=%lld trained=%lld summed=%lld certain=%lld on_two_threads=%lld problems=%d\n",
              static_cast<long long>(by_tables), static_cast<long long>(trained), static_cast<long long>(summed),
              static_cast<long long>(certain), static_cast<long long>(parallel_loops()), g_problems);
  return g_problems == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments;
  if (!parse(argc, argv, arguments)) {
    std::fprintf(stderr, "usage: %s [--only ISA] [--each] [--other-mode] NETWORKS\n", argv[0]);
    return 2;
  }
  try {
    return compare(arguments);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
  }
}
