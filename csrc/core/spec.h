// SPDX-License-Identifier: Apache-2.0
// Plain descriptions of a network, and the one check that makes them safe to run: after validate() no size or pointer
// can be wrong, so the kernels check nothing. Meaning and defaults are documented in python/snnfast/spec/.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/code.h"
#include "core/modes.h"

namespace snnfast {

struct NeuronSpec {
  float alpha = 0.0f, beta = 1.0f, threshold = 1.0f;
  float initial_membrane = 0.0f;  // of hidden layers, in the unit of the membrane potential
  bool delayed = false;
  bool reset_to_zero = false;
};

struct LayerSpec {
  int64_t n_in = 0, n_out = 0;
  std::vector<float> weights;  // (n_out, n_in), row-major; the first layer's as the encoded input meets them
  std::vector<float> bias;     // (n_out), or empty
};

struct NetworkSpec {
  std::vector<LayerSpec> layers;
  NeuronSpec neuron;
  int64_t timesteps = 100;
  Encoding encoding = Encoding::constant;
  Decoding decoding = Decoding::potential;
  bool split_inputs = false;
  bool bias_input = false;
  CodeSpec code;

  bool last_layer_fires() const { return decoding == Decoding::spikes || decoding == Decoding::first_spike; }
  int64_t features() const { return layers.front().n_in; }  // of the encoded input
  int64_t n_in() const { return features() / (split_inputs ? 2 : 1) - (bias_input ? 1 : 0); }
  int64_t n_out() const { return layers.back().n_out; }
};

inline bool all_finite(const std::vector<float>& numbers) {
  return std::all_of(numbers.begin(), numbers.end(), [](float x) { return std::isfinite(x); });
}

inline void validate(const NetworkSpec& net) {
  require(!net.layers.empty(), "weights must have at least one layer, got none");
  require(net.timesteps >= 1 && net.timesteps <= (int64_t{1} << 24),
          "timesteps must be from 1 to 2**24, got " + std::to_string(net.timesteps));
  for (size_t i = 0; i < net.layers.size(); ++i) {
    const LayerSpec& layer = net.layers[i];
    const std::string name = "weights[" + std::to_string(i) + "]";
    require(layer.n_in >= 1 && layer.n_out >= 1, name + " must not be empty");
    require(layer.n_in < (int64_t{1} << 31) && layer.n_out < (int64_t{1} << 31),
            name + " must have fewer than 2**31 rows and columns");
    require(static_cast<int64_t>(layer.weights.size()) == layer.n_in * layer.n_out,
            name + " must hold n_out * n_in numbers");
    require(i == 0 || layer.n_in == net.layers[i - 1].n_out,
            name + " must have as many columns as the layer before has outputs");
    require(layer.bias.empty() || static_cast<int64_t>(layer.bias.size()) == layer.n_out,
            "biases[" + std::to_string(i) + "] must have n_out numbers");
    require(all_finite(layer.weights), name + " must be finite");
    require(all_finite(layer.bias), "biases[" + std::to_string(i) + "] must be finite");
  }
  require(!net.split_inputs || net.features() % 2 == 0, "split inputs need an even number of encoded features");
  require(net.n_in() >= 1, "the network must have at least one input feature");
  const NeuronSpec& n = net.neuron;
  require(std::isfinite(n.alpha) && std::isfinite(n.beta) && std::isfinite(n.initial_membrane),
          "neuron constants must be finite");
  require(std::isfinite(n.threshold) && n.threshold > 0, "threshold must be positive and finite");
  std::vector<int64_t> hidden;
  for (size_t i = 0; i + 1 < net.layers.size(); ++i) hidden.push_back(net.layers[i].n_out);
  const bool plain = net.encoding == Encoding::constant && !net.last_layer_fires() && !n.delayed && !n.reset_to_zero &&
                     n.alpha == 0.0f && n.beta == 1.0f;
  validate(net.code, net.layers[0].n_in, hidden, net.n_out(), net.timesteps, plain, net.decoding);
}

}  // namespace snnfast
