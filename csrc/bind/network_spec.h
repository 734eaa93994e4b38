// SPDX-License-Identifier: Apache-2.0
// A network's description as Python gives it becomes a core/spec.h NetworkSpec.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

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

inline NetworkSpec make_spec(const std::vector<FloatArray>& weights,
                             const std::vector<std::optional<FloatArray>>& biases, double alpha, double beta,
                             double threshold, double initial_membrane, const std::string& reset,
                             const std::string& order, int64_t timesteps, const std::string& encoding,
                             const std::string& decoding, bool split_inputs, bool bias_input) {
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
                                    {"spikes", Decoding::spikes},
                                    {"first_spike", Decoding::first_spike}});
  spec.split_inputs = split_inputs;
  spec.bias_input = bias_input;
  return spec;
}

}  // namespace snnfast
