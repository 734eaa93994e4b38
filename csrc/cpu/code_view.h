// SPDX-License-Identifier: Apache-2.0
// A network's code as the kernels see it: tables padded to whole vectors. See core/code.h.
#pragma once

#include <cstdint>

namespace snnfast {

// One step of a small layer of digits: what those neurons have that may spike in it, ascending.
struct DigitStepView {
  int64_t n;
  const uint32_t* neurons;           // (n)
  const float *values, *thresholds;  // (n)
  const float* guards;               // (n), or null
  const float* products;             // (n, width): weights of the next layer times values
};

struct CodeLayerView {  // of a hidden layer; tables are (timesteps, padded)
  const float* starts;  // rate, staged: (padded)
  const float* values;
  const float* thresholds;     // infinite where a neuron is silent
  const float* guards;         // or null
  const bool* active;          // digits: (timesteps), whether any neuron may spike
  const float* drift;          // or null
  const float* rounding;       // (padded), or null
  int64_t offset;              // where the layer's state begins, in floats
  const DigitStepView* steps;  // digits, a sample per lane: (timesteps)
  int64_t width;               // of their products: the next layer's outputs, padded to whole kLaneOutputs
};

// Of a network that runs a sample per lane (lanes.h), at most: hidden neurons of a layer of rate with AVX-512, and
// outputs. The other limits are in plan.cpp.
constexpr int64_t kRateLanesWidest = 192;
constexpr int64_t lanes_outputs(int64_t lanes) { return lanes == 16 ? 32 : 16; }
constexpr int kLaneOutputs = 8;  // whose sums are made together, at most
constexpr int kLaneVectors = 2;  // of samples, that share a weight while it is in a register

struct CodeView {
  int kind;  // enum values of core/modes.h, and so is exit
  int exit;
  int copies;
  const float* levels;  // rate, staged: (copies)
  float even_level;     // see core/code.h
  bool signed_spikes, ramp;
  bool whole_products;   // rate: no weight times what copies can send in a step is rounded
  bool lanes;            // small enough for a sample per lane
  int64_t fewest_lanes;  // a pack is as much work as about this many samples side by side
  float offset;
  const CodeLayerView* layers;  // of hidden layers
  int64_t state;                // floats of all hidden layers' states
  const float* step_weights;    // (timesteps), or null
  const float* divisors;        // (timesteps), or null
  const float* bounds;          // (timesteps), or null
  float slack;
  const float* left;       // (timesteps), or null
  const float* overtake;   // (n_out, padded n_out), or null
  const float* largest;    // (features), or null
  const float* by_output;  // (n_out, padded last hidden layer): the last layer's weights, for a certificate of digits
};

}  // namespace snnfast
