// SPDX-License-Identifier: Apache-2.0
// Exact spikes from slices that are not: as certain_spikes.h, for a block of samples whose currents come from products
// of matrices. Whole numbers are joined as whole numbers, so a neuron has the current that prefix sums would give it,
// and the bound is theirs.
//
// Products leave little time beside them, so the bound is not held against every step. A neuron keeps its least
// distance from the threshold, and at the end of every segment of steps that is held against the bound of this end,
// which is the largest of the segment. What goes with the membrane is bounded by its largest so far, what goes with the
// current by the largest that any sample of the block has had. Where that is too much, a neuron is in doubt though it
// need not be: nothing else.
#pragma once

#include "cpu/certain_spikes.h"
#include "cpu/kernels.h"
#include "cpu/simd.h"
#include "cpu/step_lanes.h"

namespace snnfast {
namespace {

constexpr int64_t kSegmentSteps = 32;
constexpr int64_t kMostAtOnceSteps = 3;  // that are checked at once, the last ones perhaps of the next segment
constexpr int64_t kBounds = 4;           // of a segment
constexpr float kFar = 3e38f;

struct BlockCertainty {
  float* all_bounds;     // (kSliceRows, segments, kBounds)
  uint16_t* doubts;      // (kSliceRows, tiles of outputs, to whole words): a bit per neuron
  TurnedSpikes* turned;  // (kSliceRows): the input spikes
  int64_t segments, tiles;

  float* bounds(int64_t sample, int64_t segment) const { return all_bounds + (sample * segments + segment) * kBounds; }
  void doubt(int64_t sample, int64_t neuron, uint32_t neurons) const {
    uint16_t& of = doubts[sample * tiles + neuron / kSliceOutputs];
    of = static_cast<uint16_t>(of | neurons << (neuron % kSliceOutputs));
  }
};

template <class Arena>
BlockCertainty take_block_certainty(Arena& arena, int64_t inputs, int64_t outputs, int64_t steps) {
  BlockCertainty c;
  c.segments = (steps + kSegmentSteps - 1) / kSegmentSteps;
  c.tiles = whole_words(outputs) / kSliceOutputs;
  c.all_bounds = arena.template take<float>(kSliceRows * c.segments * kBounds);
  c.doubts = arena.template take<uint16_t>(kSliceRows * c.tiles);
  c.turned = arena.template take<TurnedSpikes>(kSliceRows);
  for (int64_t i = 0; i < kSliceRows; ++i) {
    const TurnedSpikes turned = take_turned(arena, inputs, steps);
    if (arena.base) c.turned[i] = turned;
  }
  return c;
}

// Before a sample's layer runs, whose input spikes these are.
inline void start_certainty(const BlockCertainty& c, int64_t sample, const PanelBits* bits, int64_t stride,
                            int64_t n_in, int64_t steps, const Certainty& of_steps) {
  turn_spikes(bits, stride, n_in, steps, c.turned[sample]);
  __builtin_memset(c.doubts + sample * c.tiles, 0, static_cast<size_t>(c.tiles) * sizeof(uint16_t));
  bound_steps(bits, stride, n_in, steps, of_steps);
  constexpr float kMembrane = 4.0f * 0x1p-24f * 1.01f;
  float quadratic = 0.0f, linear = 0.0f, relative = 0.0f;
  int64_t t = 0;
  for (int64_t s = 0; s < c.segments; ++s) {
    const int64_t end = (s + 1) * kSegmentSteps + kMostAtOnceSteps - 1;
    for (; t < steps && t < end; ++t) {
      quadratic += of_steps.quadratic[t];
      linear += of_steps.linear[t];
      relative += of_steps.relative[t];
    }
    float* const bounds = c.bounds(sample, s);
    bounds[0] = quadratic;
    bounds[1] = linear;
    bounds[2] = relative;
    bounds[3] = kMembrane * static_cast<float>(t);
  }
}

}  // namespace
}  // namespace snnfast
