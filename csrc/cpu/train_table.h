// SPDX-License-Identifier: Apache-2.0
// Makes tables of spike trains (spike_trains.h), and keeps the last ones: most networks of a program share theirs.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "cpu/spike_trains.h"

namespace snnfast {

struct TrainTable {
  float threshold, initial;
  int64_t timesteps;
  std::vector<Train> trains;  // none: there are too many
  std::vector<uint32_t> next;
  std::vector<uint16_t> starts;
  TrainsView view;
};

// Whether there is a table for such neurons. Their trains are not too many, and silent neurons are at 0 current.
bool has_trains(float threshold, float initial, int64_t timesteps);

// Making one takes about as long as it saves over so many samples, times the number of time steps.
constexpr int64_t kTrainTableSamples = 1000;

// The table for neurons that has_trains is true of. Null if it is not there and must not be made; or if another thread
// is at it, or there is no memory: one can do without.
std::shared_ptr<const TrainTable> train_table(float threshold, float initial, int64_t timesteps, bool make) noexcept;

}  // namespace snnfast
