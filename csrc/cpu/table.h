// SPDX-License-Identifier: Apache-2.0
// Which layers the method "tables" serves, and how its tables are laid out.
#pragma once

#include <cstdint>

namespace snnfast {

constexpr int64_t kTableWidth = 32;       // most neurons of a layer, and so most inputs of the next
constexpr int64_t kTableBits = 16;        // up to so many inputs, all patterns are in the table,
constexpr int64_t kTablePrefixBits = 11;  // with more, the patterns of the first so many

// Floats in a row of a layer's table and state. Few different widths, for few ways to run them.
constexpr int64_t kHalfTableWidth = kTableWidth / 2;
constexpr int64_t kFewOutputs = 4;
inline int64_t table_width(int64_t outputs, bool fires, int64_t lanes) {
  if (!fires && outputs <= kFewOutputs) return kFewOutputs;
  if (!fires && outputs <= lanes) return lanes;
  return outputs <= kHalfTableWidth ? kHalfTableWidth : kTableWidth;
}

// Which entry of a table of all inputs belongs to the pattern `spikes`: another one for every pattern. Patterns of few
// spikes, the usual ones, differ in few bits; by themselves they would share few of a cache's sets, and drive each
// other out of it (a third of all look-ups missed the first level; as many as with a random order do now, a tenth). Few
// outputs are looked up by the pattern itself: several entries share a line, and where the look-up follows the spikes
// at once, more operations cost more than they gain.
template <class Words>  // one, or a vector of them; of more than a few outputs
constexpr void turn_to_slots(Words& spikes) {
  spikes = spikes ^ spikes >> 3 ^ spikes >> 10;
}
constexpr uint32_t table_slot(uint32_t spikes, int64_t width) {
  if (width > kFewOutputs) turn_to_slots(spikes);
  return spikes;
}

// Floats from entry to entry: of one or two outputs, where the table holds all inputs, only those are kept. An entry's
// other floats are then the next one's; nobody asks for them.
constexpr int64_t kFewestOutputs = 2;

// The current of a layer for every pattern of its first inputs' spikes: entries `stride` floats apart, that of the
// pattern m at table_slot(m, width) where they hold all inputs, else at m. Each entry is the canonical sum, inputs
// ascending, so looking it up changes no bit. Inputs that are not in the pattern follow one by one, ascending; the bias
// comes last, so it is in the entries only where they hold all inputs.
struct TableView {
  const float* entries;
  uint32_t pattern;   // mask of the inputs in the table
  int prefix;         // their number
  const float* rest;  // weight rows of the other inputs, one of zeros after them; null: there are none
  uint32_t end;       // bit of the row of zeros
  const float* bias;  // zeros where the entries hold it
  int64_t width;      // of the layer's state
  int64_t stride;     // width; or kFewestOutputs
};

}  // namespace snnfast
