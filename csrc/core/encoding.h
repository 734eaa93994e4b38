// SPDX-License-Identifier: Apache-2.0
// How a number becomes a train of spikes. Poisson draws are counter-based: a function of seed, sample, step and feature
// alone, so they do not depend on threads, batch splits or the order of evaluation.
#pragma once

#include <cstdint>

#include "core/neuron.h"

namespace snnfast {
namespace {

struct PhiloxBlock {
  uint32_t word[4];
};

// Philox4x32-10. Source: Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3. SC'11.
SNNFAST_HOST_DEVICE PhiloxBlock philox(PhiloxBlock c, uint64_t seed) {
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53} * c.word[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57} * c.word[2];
    c = {{static_cast<uint32_t>(p1 >> 32) ^ c.word[1] ^ k0, static_cast<uint32_t>(p1),
          static_cast<uint32_t>(p0 >> 32) ^ c.word[3] ^ k1, static_cast<uint32_t>(p0)}};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
}

// The random bits of features 4*quad .. 4*quad+3 of one sample at one step.
SNNFAST_HOST_DEVICE PhiloxBlock random_bits(uint64_t seed, uint64_t sample, uint32_t t, uint32_t quad) {
  return philox({{quad, t, static_cast<uint32_t>(sample), static_cast<uint32_t>(sample >> 32)}}, seed);
}

// Poisson: a spike with probability x. The number drawn has 24 bits, so it is exact in float.
SNNFAST_HOST_DEVICE bool poisson_spike(float x, uint32_t bits) { return static_cast<float>(bits >> 8) * 0x1p-24f <= x; }

// Equidistant: the n-th spike (from 1) falls on the step nearest to n / x, ties to even; x <= 0 never spikes.
SNNFAST_HOST_DEVICE bool equidistant_spike(float x, float t, float& n) {
#if defined(__CUDACC__)
  const float step = nearbyintf(n / x);
#else
  const float step = __builtin_nearbyintf(n / x);
#endif
  if (!(x > 0.0f) || step != t) return false;
  n += 1.0f;
  return true;
}

}  // namespace
}  // namespace snnfast
