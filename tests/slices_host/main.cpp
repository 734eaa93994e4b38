// SPDX-License-Identifier: Apache-2.0
// Random layers by slices: every instruction set this machine has must leave the bits that the baseline leaves.
//   main COUNT
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "case.h"

namespace {

using snnfast::SliceCase;

struct Memory {
  std::vector<float> mem, syn, total, potentials;
  std::vector<char> bits;
};

template <class T>
bool same(const std::vector<T>& a, const std::vector<T>& b) {
  return a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace snnfast;
  const int count = argc > 1 ? std::atoi(argv[1]) : 100;
  std::vector<void (*)(const SliceCase&)> others;
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2")) others.push_back(scan_avx2);
  if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
    others.push_back(scan_avx512);
  }
  std::mt19937 random(1);
  const auto below = [&](int64_t n) { return static_cast<int64_t>(random() % static_cast<uint64_t>(n)); };
  int different = 0;
  long spikes = 0;
  for (int number = 0; number < count; ++number) {
    SliceView view{};
    view.slices = 2 + static_cast<int>(below(2));
    view.output_tiles = 1 + below(3);
    view.input_tiles = 1 + below(4);
    const int64_t outputs = view.output_tiles * kSliceOutputs;
    std::vector<int8_t> digits(static_cast<size_t>(view.output_tiles * view.input_tiles * view.slices * kSliceBytes));
    for (int8_t& d : digits) d = static_cast<int8_t>(below(256) - 128);
    std::vector<float> scale(static_cast<size_t>(outputs)), bias(scale.size());
    for (float& s : scale) s = std::ldexp(1.0f, -9 * view.slices - static_cast<int>(below(4)));
    for (float& b : bias) b = static_cast<float>(below(1000)) / 3000.0f;
    view.digits = digits.data();
    view.scale = scale.data();
    view.bias = bias.data();

    SliceCase c{};
    c.alpha = below(2) ? 0.0f : 0.7f;
    c.beta = below(2) ? 1.0f : 0.9f;
    c.threshold = below(2) ? 1.0f : 0.7f;
    c.delayed = below(2);
    c.reset_to_zero = below(2);
    c.fires = below(4) > 0;
    c.slices = &view;
    c.samples = 1 + below(kSliceRows);
    c.steps = 1 + below(9);
    c.n_out = outputs - below(kSliceOutputs);
    c.padded = outputs;
    c.bits_stride = (outputs + 63) / 64 * 8;
    std::vector<uint8_t> bytes(static_cast<size_t>(c.steps * view.input_tiles * kSliceBytes));
    for (uint8_t& b : bytes) b = below(8) == 0;
    c.bytes = bytes.data();

    Memory start;
    const auto state = static_cast<size_t>(c.samples * c.padded);
    start.mem.resize(state);
    for (float& m : start.mem) m = static_cast<float>(below(1000)) / 999.0f;
    start.syn.assign(state, 0.25f);
    start.bits.resize(static_cast<size_t>(c.samples * c.steps * c.bits_stride));
    if (below(2)) start.total.resize(state);
    if (below(2)) start.potentials.resize(static_cast<size_t>(c.steps * c.samples * c.n_out));
    const auto run = [&](void (*scan)(const SliceCase&)) {
      Memory m = start;
      SliceCase own = c;
      own.mem = m.mem.data();
      own.syn = m.syn.data();
      own.total = m.total.empty() ? nullptr : m.total.data();
      own.potentials = m.potentials.empty() ? nullptr : m.potentials.data();
      own.spike_bits = m.bits.data();
      scan(own);
      return m;
    };
    const Memory want = run(scan_baseline);
    for (char b : want.bits) spikes += __builtin_popcount(static_cast<unsigned char>(b));
    for (auto* scan : others) {
      const Memory got = run(scan);
      different += !(same(got.mem, want.mem) && same(got.syn, want.syn) && same(got.total, want.total) &&
                     same(got.potentials, want.potentials) && same(got.bits, want.bits));
    }
  }
  std::printf("layers %d, others %zu, different %d, spikes %ld\n", count, others.size(), different, spikes);
  return different != 0;
}
