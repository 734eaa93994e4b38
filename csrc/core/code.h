// SPDX-License-Identifier: Apache-2.0
// How hidden neurons tell each other a number in spikes, and when a decision may stop: plain descriptions, and the
// check that makes them safe to run. Meaning: python/snnfast/spec/codes.py; tables of an exit:
// python/snnfast/spec/certificate.py.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/modes.h"

namespace snnfast {

inline void require(bool ok, const std::string& message) {
  if (!ok) throw std::invalid_argument(message);
}

struct CodeSpec {
  CodeKind kind = CodeKind::none;
  bool signed_spikes = false;  // rate
  bool ramp = false;           // staged
  float offset = 0.0f;         // radix: what rounds
  float start = 0.0f;          // rate, staged: membrane of the lowest copy before the first step
  std::vector<float> levels;   // rate, staged: (copies), see copies_step of core/neuron.h
  // Rate, of the parabolic read-out: (timesteps), or empty. Of the output's currents; with an exit of its potentials.
  std::vector<float> step_weights;
  std::vector<float> divisors;                         // rate with an exit: (timesteps), or empty
  std::vector<std::vector<float>> values, thresholds;  // digits: per hidden layer (timesteps, n)
  std::vector<std::vector<float>> guards;              // the same, or none
  ExitKind exit = ExitKind::none;
  std::vector<float> bounds;          // calibrated: (timesteps)
  float slack = 0.0f;                 // certified
  std::vector<float> left, overtake;  // radix: (timesteps), (n_out, n_out)
  // Digits: per hidden layer (timesteps, n) and (n); (features).
  std::vector<std::vector<float>> drift, rounding;
  std::vector<float> largest;
};

// The first of these levels, if they are its multiples and it is a power of two from 2^-60 to 1: what is multiplied by
// it keeps its digits, and what is divided by it too, and does not vanish. Else 0.
inline float even_level(const std::vector<float>& levels) {
  int exponent = 0;
  if (levels.empty() || std::frexp(levels[0], &exponent) != 0.5f || exponent < -59 || exponent > 1) return 0.0f;
  for (size_t i = 0; i < levels.size(); ++i) {
    if (levels[i] != static_cast<float>(i + 1) * levels[0]) return 0.0f;
  }
  return levels[0];
}

inline void require_tables(const char* name, const std::vector<std::vector<float>>& tables,
                           const std::vector<int64_t>& hidden, int64_t rows) {
  require(tables.size() == hidden.size(), std::string(name) + " must have one table per hidden layer");
  for (size_t l = 0; l < tables.size(); ++l) {
    require(static_cast<int64_t>(tables[l].size()) == rows * hidden[l],
            std::string(name) + " must hold " + std::to_string(rows) + " * n numbers per hidden layer");
    require(std::all_of(tables[l].begin(), tables[l].end(), [](float x) { return x >= 0.0f; }),
            std::string(name) + " must not be negative");
  }
}

// `plain`: constant encoding, and the neuron that codes are made of.
inline void validate(const CodeSpec& code, int64_t features, const std::vector<int64_t>& hidden, int64_t n_out,
                     int64_t timesteps, bool plain, Decoding decoding) {
  const auto holds = [](const std::vector<float>& v, int64_t n) { return static_cast<int64_t>(v.size()) == n; };
  const bool parabolic = decoding == Decoding::parabolic_potential;
  if (code.kind == CodeKind::none) {
    require(!parabolic && code.exit == ExitKind::none, "a parabolic read-out and an exit need a code");
    return;
  }
  require(plain, "a code needs constant encoding and plain neurons");
  require(code.kind == CodeKind::rate || decoding == Decoding::potential,
          "decoding must be 'potential' with this code");
  require(code.kind == CodeKind::rate || !hidden.empty(), "this code needs a hidden layer");
  const bool counts = code.kind == CodeKind::rate || code.kind == CodeKind::staged;
  require(counts ? !code.levels.empty() : code.levels.empty(), "levels must be there with copies only");
  require(std::is_sorted(code.levels.begin(), code.levels.end()) && (!counts || code.levels[0] >= 0.0f),
          "levels must not be negative, and rise");
  // Whole numbers up to 2^24 are exact in float32, in whatever order they are added: spike counts, weighted or not.
  const auto steps = static_cast<double>(timesteps);
  const double spikes = static_cast<double>(code.levels.size()) * steps * (code.ramp ? (steps + 1) / 2 : 1.0);
  require(!counts || spikes <= 16777216.0, "timesteps and copies must be fewer: spike counts must fit into float32");
  require(holds(code.step_weights, parabolic ? timesteps : 0), "step_weights must fit timesteps");
  const bool rate_exit = code.kind == CodeKind::rate && code.exit != ExitKind::none;
  require(holds(code.divisors, rate_exit ? timesteps : 0), "divisors must fit timesteps");
  require(code.kind != CodeKind::radix || timesteps <= 24, "a radix code has at most 24 bits");
  if (code.kind == CodeKind::digits) {
    require_tables("values", code.values, hidden, timesteps);
    require_tables("thresholds", code.thresholds, hidden, timesteps);
    for (size_t l = 0; l < hidden.size(); ++l) {
      const std::vector<float>&values = code.values[l], &thresholds = code.thresholds[l];
      require(std::equal(values.begin(), values.end(), thresholds.begin(),
                         [](float value, float threshold) { return !(value > 0.0f) || threshold > 0.0f; }),
              "thresholds must be positive where values are");
    }
    if (!code.guards.empty()) require_tables("guards", code.guards, hidden, timesteps);
  }
  // Tables that no exit asks for are not looked at below, but a plan would lay them out.
  const bool certified = code.exit == ExitKind::certified;
  require(code.exit == ExitKind::calibrated || code.bounds.empty(), "bounds need a calibrated exit");
  require((certified && code.kind == CodeKind::radix) || (code.left.empty() && code.overtake.empty()),
          "left and overtake need a certified exit of a radix code");
  require((certified && code.kind == CodeKind::digits) ||
              (code.drift.empty() && code.rounding.empty() && code.largest.empty()),
          "drift, rounding and largest need a certified exit of digits");
  if (code.exit == ExitKind::none) return;
  require(n_out >= 2, "an exit needs two outputs");
  require(code.kind != CodeKind::staged, "a staged code has no exit");
  if (code.exit == ExitKind::calibrated) {
    require(code.kind != CodeKind::radix && holds(code.bounds, timesteps), "bounds must fit timesteps");
  } else if (code.kind == CodeKind::radix) {
    require(holds(code.left, timesteps) && holds(code.overtake, n_out * n_out), "left and overtake must fit");
  } else {
    require(code.kind == CodeKind::digits, "a rate code has no certified exit");
    require_tables("drift", code.drift, hidden, timesteps);
    require_tables("rounding", code.rounding, hidden, 1);
    require(holds(code.largest, features), "largest must fit the first layer's inputs");
  }
}

}  // namespace snnfast
