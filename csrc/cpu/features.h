// SPDX-License-Identifier: Apache-2.0
// From an observation to the features that the first layer's weights meet: the constant 1 of a bias input appended,
// then the positive parts, then the negative ones where inputs are split.
#pragma once

#include "cpu/kernels.h"

namespace snnfast {
namespace {

inline bool features_are_observations(const NetworkView& net) { return !net.split_inputs && !net.bias_input; }

inline void write_features(const NetworkView& net, const float* x, float* features) {
  const int64_t plain = net.n_in + (net.bias_input ? 1 : 0);
  for (int64_t j = 0; j < plain; ++j) {
    const float value = j < net.n_in ? x[j] : 1.0f;
    if (net.split_inputs) {
      features[j] = value > 0.0f ? value : 0.0f;
      features[plain + j] = value < 0.0f ? -value : 0.0f;
    } else {
      features[j] = value;
    }
  }
}

}  // namespace
}  // namespace snnfast
