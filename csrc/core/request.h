// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace snnfast {

// One call: where the observations are and where everything goes, in the backend's own memory. Null pointers: not
// wanted.
struct Request {
  const float* observations;  // (batch, n_in)
  int64_t batch;
  uint64_t seed, first_sample;
  float* output;               // (batch, n_out)
  float* const* spike_counts;  // per spiking layer, (batch, n)
  float* input_counts;         // (batch, features), with an encoding by spikes only
  float* const* spikes;        // per spiking layer, (timesteps, batch, n)
  float* const* potentials;    // per layer, (timesteps, batch, n)
  float* steps;                // (batch), of a network with a code, as the next two
  float* certified;            // (batch), 1 or 0
  float* saturated;            // (batch), 1 or 0
};

}  // namespace snnfast
