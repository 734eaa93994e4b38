// SPDX-License-Identifier: Apache-2.0
// The spike trains of neurons under a constant current: a neuron without leak that starts below its threshold has only
// some 0.3 to 0.5 T^2 different ones in T steps, whatever the current, and each belongs to all currents from one number
// to the next. So a table of them, found by the current, takes the place of T steps of the neuron.
//
// No bit changes. Suppose that two currents gave the same spikes so far. The membrane potential of the larger one is at
// least as high: both have done the same additions and subtractions, and rounding keeps order. So among the currents
// with the same spikes so far, those that spike next are the largest ones, and the currents of a train lie together.
#pragma once

#include <cstdint>

#include "core/neuron.h"

namespace snnfast {

constexpr int64_t kTrainSteps = 128;  // at most; more would be too many trains for the caches
constexpr int64_t kTrainNeurons = 16;
constexpr int64_t kMostTrains = 1 << 15;
constexpr uint32_t kCrowded = 1u << 15;   // in `starts`
constexpr uint32_t kNoNext = 0xFFFFFFFF;  // more than the bits of any number

// A train's spikes, the first in the lowest bit of the first word.
struct Train {
  uint32_t words[kTrainSteps / 32];
};

// Trains ascend with the currents.
struct TrainsView {
  const Train* trains;
  const uint32_t* next;  // per train: the least current of the one after it, as the bits of a float
  // Per bucket of currents: the train from which on to look; and whether more than one begins in it (kCrowded).
  const uint16_t* starts;
  float first, scale, last_bucket;  // the least current that spikes; buckets per current; number of buckets less one
};

namespace {

// Buckets, rounded to the nearest, are alike in width from the first current that spikes on; the first of them is for
// those well below it, and for what is not a number.
template <class V>
SNNFAST_HOST_DEVICE V train_bucket(V current, V first, V scale, V last_bucket, V zero, V one) {
  return smaller(larger((current - first) * scale + one, zero), last_bucket);
}

}  // namespace
}  // namespace snnfast
