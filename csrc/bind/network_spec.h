// SPDX-License-Identifier: Apache-2.0
// A network's description as Python gives it becomes a core/spec.h NetworkSpec.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <initializer_list>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/spec.h"

namespace snnfast {

using FloatArray = pybind11::array_t<float, pybind11::array::c_style | pybind11::array::forcecast>;

template <class E>
E choose(const char* name, const std::string& value, std::initializer_list<std::pair<const char*, E>> choices) {
  std::string known;
  for (const auto& [text, code] : choices) {
    if (value == text) return code;
    known += (known.empty() ? "'" : ", '") + std::string(text) + "'";
  }
  throw pybind11::value_error(std::string(name) + " must be one of " + known + ", got '" + value + "'");
}

// A table or list of floats; empty where it is missing.
inline std::vector<float> numbers(const pybind11::dict& code, const char* name) {
  if (!code.contains(name)) return {};
  const auto array = code[name].cast<FloatArray>();
  return {array.data(), array.data() + array.size()};
}

inline std::vector<std::vector<float>> tables(const pybind11::dict& code, const char* name) {
  std::vector<std::vector<float>> all;
  if (!code.contains(name)) return all;
  for (const FloatArray& array : code[name].cast<std::vector<FloatArray>>()) {
    all.emplace_back(array.data(), array.data() + array.size());
  }
  return all;
}

// What python/snnfast/spec/network.py writes as code_arguments.
inline CodeSpec make_code(const pybind11::dict& given) {
  CodeSpec code;
  code.kind = choose<CodeKind>("code", given["kind"].cast<std::string>(),
                               {{"rate", CodeKind::rate},
                                {"staged", CodeKind::staged},
                                {"radix", CodeKind::radix},
                                {"digits", CodeKind::digits}});
  code.signed_spikes = given["signed"].cast<bool>();
  code.ramp = given["ramp"].cast<bool>();
  code.offset = given["offset"].cast<float>();
  if (given.contains("start")) code.start = given["start"].cast<float>();
  code.levels = numbers(given, "levels");
  code.step_weights = numbers(given, "step_weights");
  code.divisors = numbers(given, "divisors");
  code.values = tables(given, "values");
  code.thresholds = tables(given, "thresholds");
  code.guards = tables(given, "guards");
  code.exit = choose<ExitKind>(
      "exit", given["exit"].cast<std::string>(),
      {{"none", ExitKind::none}, {"calibrated", ExitKind::calibrated}, {"certified", ExitKind::certified}});
  code.bounds = numbers(given, "bounds");
  code.slack = given["slack"].cast<float>();
  code.left = numbers(given, "left");
  code.overtake = numbers(given, "overtake");
  code.drift = tables(given, "drift");
  code.rounding = tables(given, "rounding");
  code.largest = numbers(given, "largest");
  return code;
}

inline NetworkSpec make_spec(const std::vector<FloatArray>& weights,
                             const std::vector<std::optional<FloatArray>>& biases, double alpha, double beta,
                             double threshold, double initial_membrane, const std::string& reset,
                             const std::string& order, int64_t timesteps, const std::string& encoding,
                             const std::string& decoding, bool split_inputs, bool bias_input,
                             const std::optional<pybind11::dict>& code = std::nullopt) {
  require(biases.size() == weights.size(), "biases must have one entry per layer");
  NetworkSpec spec;
  for (size_t i = 0; i < weights.size(); ++i) {
    require(weights[i].ndim() == 2, "weights must have two dimensions");
    LayerSpec layer;
    layer.n_out = weights[i].shape(0);
    layer.n_in = weights[i].shape(1);
    layer.weights.assign(weights[i].data(), weights[i].data() + weights[i].size());
    if (biases[i]) layer.bias.assign(biases[i]->data(), biases[i]->data() + biases[i]->size());
    spec.layers.push_back(std::move(layer));
  }
  spec.neuron.alpha = static_cast<float>(alpha);
  spec.neuron.beta = static_cast<float>(beta);
  spec.neuron.threshold = static_cast<float>(threshold);
  spec.neuron.initial_membrane = static_cast<float>(initial_membrane);
  spec.neuron.reset_to_zero = choose<bool>("reset", reset, {{"subtraction", false}, {"zero", true}});
  spec.neuron.delayed = choose<bool>("order", order, {{"immediate", false}, {"delayed", true}});
  spec.timesteps = timesteps;
  spec.encoding = choose<Encoding>(
      "encoding", encoding,
      {{"constant", Encoding::constant}, {"equidistant", Encoding::equidistant}, {"poisson", Encoding::poisson}});
  spec.decoding = choose<Decoding>("decoding", decoding,
                                   {{"potential", Decoding::potential},
                                    {"mean_potential", Decoding::mean_potential},
                                    {"parabolic_potential", Decoding::parabolic_potential},
                                    {"spikes", Decoding::spikes},
                                    {"first_spike", Decoding::first_spike}});
  spec.split_inputs = split_inputs;
  spec.bias_input = bias_input;
  if (code) spec.code = make_code(*code);
  return spec;
}

}  // namespace snnfast
