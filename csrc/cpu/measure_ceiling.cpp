// SPDX-License-Identifier: Apache-2.0
#include "cpu/measure_ceiling.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <vector>

#include "core/float_mode.h"

namespace snnfast {
namespace {

struct Name {
  const char* text;
  Ceiling what;
  bool needs_memory;
};

const Name kNames[] = {
    {"add", Ceiling::add, false},
    {"add_few", Ceiling::add_few, false},
    {"mul_add", Ceiling::mul_add, false},
    {"step", Ceiling::step, false},
    {"step_latency", Ceiling::step_latency, false},
    {"add_memory", Ceiling::add_memory, true},
    {"read", Ceiling::read, true},
    {"matrix", Ceiling::matrix, false},
};

constexpr double kSeconds = 2e-3;  // of one repeat, at least
constexpr int kRepeats = 25;
constexpr int64_t kMostBytes = int64_t{1} << 30;

const Name& find(const std::string& text) {
  std::string known;
  for (const Name& name : kNames) {
    if (text == name.text) return name;
    known += (known.empty() ? "'" : ", '") + std::string(name.text) + "'";
  }
  throw std::invalid_argument("name must be one of " + known + ", got '" + text + "'");
}

}  // namespace

double measure_ceiling(const std::string& name, int64_t bytes, const Kernels& kernels) {
  using Clock = std::chrono::steady_clock;
  const Name& wanted = find(name);
  if (wanted.what == Ceiling::matrix && !kernels.matrix_unit) {
    throw std::invalid_argument(std::string("name 'matrix' needs a matrix unit, which instruction set '") +
                                kernels.isa + "' does not have");
  }
  std::vector<float> memory;
  float* start = nullptr;
  int64_t floats = 0;
  if (wanted.needs_memory) {
    constexpr int64_t unit = kCeilingFloats * static_cast<int64_t>(sizeof(float));
    if (bytes < unit || bytes > kMostBytes) {
      throw std::invalid_argument("bytes must be from " + std::to_string(unit) + " to " + std::to_string(kMostBytes) +
                                  ", got " + std::to_string(bytes));
    }
    floats = bytes / unit * kCeilingFloats;
    constexpr int64_t line = 64;
    memory.resize(static_cast<size_t>(floats + line / static_cast<int64_t>(sizeof(float))));
    start = reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(memory.data()) + line - 1) & ~uintptr_t{line - 1});
  }
  const StandardFloatMode standard;
  double units = 0.0;
  const auto seconds = [&](int64_t rounds) {
    const auto began = Clock::now();
    units = kernels.ceiling_loop(wanted.what, start, floats, rounds);
    return std::chrono::duration<double>(Clock::now() - began).count();
  };
  int64_t rounds = 1;
  while (seconds(rounds) < kSeconds) rounds *= 2;
  // The minimum: whatever disturbs, a ceiling is what is left when nothing does.
  double best = seconds(rounds);
  for (int i = 1; i < kRepeats; ++i) best = std::min(best, seconds(rounds));
  return units / best;
}

}  // namespace snnfast
