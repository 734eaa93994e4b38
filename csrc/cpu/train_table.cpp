// SPDX-License-Identifier: Apache-2.0
#include "cpu/train_table.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <iterator>
#include <limits>
#include <mutex>
#include <new>

#include "core/float_mode.h"

namespace snnfast {
namespace {

constexpr size_t kMostKept = 8;            // tables, of some 100 KB each
constexpr int64_t kMostBuckets = 1 << 14;  // so few that a float and 23 bits of it are enough for them
constexpr float kLeastThreshold = 1e-30f;  // far from numbers that floats resolve less well

bool same(const Train& a, const Train& b) { return std::equal(std::begin(a.words), std::end(a.words), b.words); }

// So many currents at once: each step waits for the one before, and the others fill the time.
constexpr int kAtOnce = 8;

void trains_of(const float (&currents)[kAtOnce], const TrainTable& table, Train (&trains)[kAtOnce]) {
  constexpr int64_t kBits = 32;
  const NeuronConstants<float> constants{0.0f, 1.0f, table.threshold};
  float mem[kAtOnce];
  std::fill(std::begin(mem), std::end(mem), table.initial);
  for (int64_t first = 0; first < kTrainSteps; first += kBits) {
    uint32_t words[kAtOnce] = {};
    for (int64_t t = 0; t < std::min(kBits, table.timesteps - first); ++t) {
      const uint32_t bit = uint32_t{1} << t;
      for (int i = 0; i < kAtOnce; ++i) {
        float none = 0.0f;
        const bool spike =
            NeuronRule<false, Reset::subtraction, false, false>::step(mem[i], none, currents[i], constants);
        words[i] |= spike ? bit : 0;
      }
    }
    for (int i = 0; i < kAtOnce; ++i) trains[i].words[first / kBits] = words[i];
  }
}

Train train_of(float current, const TrainTable& table) {
  float currents[kAtOnce];
  Train trains[kAtOnce];
  std::fill(std::begin(currents), std::end(currents), current);
  trains_of(currents, table, trains);
  return trains[0];
}

// Floats from zero to infinity, by their bits, in order.
float from_bits(int32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
int32_t to_bits(float x) {
  int32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

// About where the next train begins: without rounding, a neuron has sent k spikes by step t from the current
// (k threshold - initial) / t on.
double guess_next(const Train& train, const TrainTable& table) {
  double least = std::numeric_limits<double>::infinity();
  int64_t sent = 0;
  for (int64_t t = 1; t <= table.timesteps; ++t) {
    sent += train.words[(t - 1) / 32] >> ((t - 1) % 32) & 1u;
    if (sent == t) continue;  // no more is possible
    least = std::min(least, (static_cast<double>(sent + 1) * static_cast<double>(table.threshold) -
                             static_cast<double>(table.initial)) /
                                static_cast<double>(t));
  }
  return least;
}

// From a train, not the last, to the next one; from its least current to that one's.
void go_on(float& current, Train& train, const Train& last, const TrainTable& table) {
  int32_t like = to_bits(current), other = to_bits(std::numeric_limits<float>::infinity());
  Train next = last;
  const double guess = guess_next(train, table), error = 0x1p-23 * static_cast<double>(table.threshold);
  // It is between these nearly always; and if not, elsewhere between the two above.
  int32_t low = to_bits(static_cast<float>(std::max(guess - error, 0.0))),
          high = to_bits(static_cast<float>(guess + error));
  while (other - like > 1) {
    low = std::max(low, like + 1);
    high = std::min(std::max(high, low), other - 1);
    low = std::min(low, high);
    float currents[kAtOnce];
    Train trains[kAtOnce];
    for (int32_t i = 0; i < kAtOnce; ++i) {
      const int64_t along = static_cast<int64_t>(high - low) * i / (kAtOnce - 1);
      currents[i] = from_bits(low + static_cast<int32_t>(along));
    }
    trains_of(currents, table, trains);
    for (int i = 0; i < kAtOnce; ++i) {
      if (same(trains[i], train)) {
        like = to_bits(currents[i]);
      } else {
        other = to_bits(currents[i]);
        next = trains[i];
        break;
      }
    }
    low = like + 1;
    high = other - 1;
  }
  current = from_bits(other);
  train = next;
}

int64_t bucket(float current, const TrainsView& view) {
  return static_cast<int64_t>(
      std::nearbyint(train_bucket(current, view.first, view.scale, view.last_bucket, 0.0f, 1.0f)));
}

// False if there are too many trains.
bool make_table(TrainTable& table) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  const Train last = train_of(infinity, table);
  std::vector<float> begins;  // of all trains but the first
  float current = 0.0f;
  Train train = train_of(current, table);
  while (!same(train, last)) {
    table.trains.push_back(train);
    go_on(current, train, last, table);
    table.next.push_back(static_cast<uint32_t>(to_bits(current)));
    begins.push_back(current);
    if (begins.size() >= static_cast<size_t>(kMostTrains) - 1) return false;
  }
  table.trains.push_back(last);
  table.next.push_back(kNoNext);
  int64_t buckets = 64;
  while (buckets < 4 * static_cast<int64_t>(begins.size()) && buckets < kMostBuckets) buckets *= 2;
  TrainsView& view = table.view;
  view.first = begins.front();
  view.last_bucket = static_cast<float>(buckets - 1);
  const float range = begins.back() - view.first;
  view.scale = range > 0.0f ? static_cast<float>(buckets - 2) / range : 0.0f;
  std::vector<int64_t> within(static_cast<size_t>(buckets));
  for (float begin : begins) ++within[static_cast<size_t>(bucket(begin, view))];
  int64_t before = 0;
  for (int64_t n : within) {
    table.starts.push_back(static_cast<uint16_t>(before | (n > 1 ? kCrowded : 0)));
    before += n;
  }
  view.trains = table.trains.data();
  view.next = table.next.data();
  view.starts = table.starts.data();
  return true;
}

// The tables of this process. Never destroyed: threads may still run networks when the program ends. After a fork the
// child begins anew: the thread that held the lock may not exist there.
struct Kept {
  pid_t process;
  std::mutex mutex;
  std::vector<std::shared_ptr<const TrainTable>> tables;  // the last used first
};

std::atomic<Kept*> g_kept{nullptr};

Kept* kept_here() {
  const pid_t self = getpid();
  Kept* kept = g_kept.load();
  if (kept && kept->process == self) return kept;
  Kept* const fresh = new (std::nothrow) Kept{self, {}, {}};
  if (!fresh || g_kept.compare_exchange_strong(kept, fresh)) return fresh;
  delete fresh;  // another thread was quicker
  return kept;
}

}  // namespace

bool has_trains(float threshold, float initial, int64_t timesteps) {
  return timesteps <= kTrainSteps && threshold >= kLeastThreshold && initial >= 0.0f && threshold > initial;
}

std::shared_ptr<const TrainTable> train_table(float threshold, float initial, int64_t timesteps, bool make) noexcept {
  Kept* const kept = kept_here();
  if (!kept) return nullptr;
  const std::unique_lock<std::mutex> lock(kept->mutex, std::try_to_lock);
  if (!lock) return nullptr;
  auto& tables = kept->tables;
  const auto found = std::find_if(tables.begin(), tables.end(), [&](const auto& pointer) {
    const TrainTable& table = *pointer;
    return table.threshold == threshold && table.initial == initial && table.timesteps == timesteps;
  });
  if (found != tables.end()) {
    std::rotate(tables.begin(), found, found + 1);
    return tables.front();
  }
  if (!make) return nullptr;
  try {
    auto table = std::make_shared<TrainTable>();
    *table = TrainTable{threshold, initial, timesteps, {}, {}, {}, {}};
    const StandardFloatMode standard;
    if (!make_table(*table)) table->trains.clear();
    tables.reserve(kMostKept + 1);
    tables.insert(tables.begin(), std::move(table));
    if (tables.size() > kMostKept) tables.pop_back();
    return tables.front();
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

}  // namespace snnfast
