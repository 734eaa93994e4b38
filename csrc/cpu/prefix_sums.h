// SPDX-License-Identifier: Apache-2.0
// Method "prefix sums": the second layer's currents when the first one has a constant current. With the first layer's
// neurons sorted by their currents, those that fire in a step stand side by side in few runs, as neighbours have fired
// about as often; and what a run adds is a difference of two prefix sums of the weight rows in that order. A step costs
// two loads for every run instead of one for every spike. The weights are whole numbers (core/integer_rows.h), whose
// sums are exact whatever the order and may even wrap on the way.
//
// Where runs begin and end is taken from the spikes themselves, so that the result rests on no law about them; only
// that there are few runs does.
//
// Prefix sums are kept at those places only at which some step has an end of a run, and inputs are cut into segments
// that have few enough of them for the first cache.
#pragma once

#include "cpu/event_currents.h"
#include "cpu/kernels.h"
#include "cpu/panels.h"
#include "cpu/simd.h"
#include "cpu/spike_ids.h"

namespace snnfast {
namespace {

constexpr int kSumVectors = kSumRow / Vec::lanes;
// Prefix sums of a segment: two thirds of the smallest first caches; the rest is for rows and currents. There are
// always enough for one word of spikes.
constexpr int64_t kMostSums = (20 << 10) / (4 * kSumRow);
static_assert(kMostSums > 64 + 2 && kMostSums <= kLongestList);
static_assert(kMostSums * Vec::lanes < 1 << 16, "a list's ids have 16 bits");

// Inputs that are summed: those before the first segment's have no part in any run.
struct RunSegment {
  int32_t first, end;
};

// The runs of one sample in a tile of steps.
struct SpikeRuns {
  uint16_t* order;  // (inputs): input order[i] is the i-th
  uint16_t* at;     // (inputs): the prefix sum of its segment that comes before place i, if a run begins or ends there
  RunSegment* segments;
  int32_t* count;    // of segments
  SpikeLists lists;  // of prefix sums, two by two: where a run begins, where it ends
};

// Ids of a step's list at most: every segment may have half a run more.
inline int64_t run_ids(int64_t inputs) { return inputs + 2 * ((inputs + 63) / 64); }

template <class Arena>
SpikeRuns take_runs(Arena& arena, int64_t inputs, const SpikeLists& lists) {
  SpikeRuns runs;
  runs.order = arena.template take<uint16_t>(inputs);
  runs.at = arena.template take<uint16_t>(inputs);
  runs.segments = arena.template take<RunSegment>((inputs + 63) / 64);
  runs.count = arena.template take<int32_t>(1);
  runs.lists = lists;
  return runs;
}

// What a block's samples share while one of them is at work.
struct SumsScratch {
  uint32_t* keys;    // (inputs)
  uint16_t* chosen;  // (inputs): those with a current above zero
  uint16_t* half;    // (inputs): sorted by half of the key
  float* unsorted;   // (padded inputs)
  uint64_t* ends;    // (words): the places at which some run ends
  uint64_t* row;     // (words)
  int32_t* sums;     // (kMostSums, panel)
  int32_t* partial;  // (steps, panel of sums): currents as far as they are summed; a row more that nobody reads
};

template <class Arena>
SumsScratch take_sums(Arena& arena, int64_t inputs, int64_t padded, int64_t steps) {
  SumsScratch s;
  s.keys = arena.template take<uint32_t>(inputs);
  s.chosen = arena.template take<uint16_t>(inputs);
  s.half = arena.template take<uint16_t>(inputs);
  s.unsorted = arena.template take<float>(padded);
  s.ends = arena.template take<uint64_t>((inputs + 63) / 64);
  s.row = arena.template take<uint64_t>((inputs + 63) / 64);
  s.sums = arena.template take<int32_t>(kMostSums * kSumRow);
  s.partial = arena.template take<int32_t>((steps + 1) * kSumRow);
  return s;
}

// What two ways to add up a sample's currents cost, in loads of a vector of weights, told from the first layer's
// currents alone: of plain neurons one that has the share a of the threshold fires in a of the steps. An end of a run
// is a pair of neighbours of which one fires. Their trains shift against each other with time, so that they differ in
// about T^2 times the difference of a; at most, as independent ones do, in 2 a (1 - a) of the steps.
struct SumsCost {
  float spikes, sums, firing;  // firing: neurons
};
inline SumsCost sums_cost(const float* current, int64_t padded, float threshold, int64_t steps) {
  const Vec zero = broadcast(0.0f), one = broadcast(1.0f), scale = broadcast(1.0f / threshold);
  Vec all = zero, apart = zero, most = zero, fire = zero;
  for (int64_t j = 0; j < padded; j += Vec::lanes) {
    const Vec share = smaller(larger(load(current + j) * scale, zero), one);
    all = all + share;
    apart = apart + share * (one - share);
    most = larger(share, most);
    fire = fire + keep_where(above(share, zero), one);
  }
  float sum[4][Vec::lanes];
  store(sum[0], all);
  store(sum[1], apart);
  store(sum[2], most);
  store(sum[3], fire);
  for (int i = 1; i < Vec::lanes; ++i) {
    for (int k = 0; k < 4; ++k) sum[k][0] += k == 2 ? 0.0f : sum[k][i];
    if (sum[2][i] > sum[2][0]) sum[2][0] = sum[2][i];
  }
  const auto t = static_cast<float>(steps);
  const float shifted = t * t * sum[2][0], independent = 2.0f * t * sum[1][0];
  // To make a prefix sum takes a load and a store, as much as two loads at the least.
  return {t * sum[0][0], (shifted < independent ? shifted : independent) + 3.0f * sum[3][0], sum[3][0]};
}

// Sorts the neurons of a layer by their constant currents, which are put in that order. Nearly: keys of 18 bits are
// enough for runs. Those whose current is not above zero come first, as they are.
inline void sort_by_current(float* current, int64_t n, float threshold, const SpikeRuns& runs, const SumsScratch& s) {
  constexpr int kBits = 9;
  constexpr uint32_t kKeys = 1u << kBits;
  const float most = static_cast<float>(kKeys * kKeys - 1), scale = most / threshold;
  for (int64_t j = 0; j < n; ++j) {
    const float key = current[j] * scale, positive = key > 0.0f ? key : 0.0f;
    s.keys[j] = static_cast<uint32_t>(static_cast<int32_t>(positive < most ? positive : most));
  }
  int64_t rest = 0, count = 0;
  for (int64_t j = 0; j < n; ++j) {
    const int above = s.keys[j] != 0;
    runs.order[rest] = static_cast<uint16_t>(j);
    s.chosen[count] = static_cast<uint16_t>(j);
    rest += 1 - above;
    count += above;
  }
  int32_t low[kKeys] = {}, high[kKeys] = {};
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t key = s.keys[s.chosen[i]];
    ++low[key % kKeys];
    ++high[key / kKeys];
  }
  int32_t below_low = 0, below_high = 0;
  for (uint32_t k = 0; k < kKeys; ++k) {
    const int32_t here_low = low[k], here_high = high[k];
    low[k] = below_low;
    high[k] = below_high;
    below_low += here_low;
    below_high += here_high;
  }
  for (int64_t i = 0; i < count; ++i) s.half[low[s.keys[s.chosen[i]] % kKeys]++] = s.chosen[i];
  for (int64_t i = 0; i < count; ++i) {
    const uint16_t j = s.half[i];
    runs.order[rest + high[s.keys[j] / kKeys]++] = j;
  }
  __builtin_memcpy(s.unsorted, current, static_cast<size_t>(n) * sizeof(float));
  for (int64_t i = 0; i < n; ++i) current[i] = s.unsorted[runs.order[i]];
}

// Where runs begin and end, of words begin .. end - 1 of a row of spikes; what comes before them is silent, and a run
// that goes on behind them has no end there.
inline void run_ends(const PanelBits* row, int64_t begin, int64_t end, int64_t words, uint64_t last_bits,
                     uint64_t* ends) {
  uint64_t before = 0;
  for (int64_t w = begin; w < end; ++w) {
    const uint64_t used = w == words - 1 ? last_bits : ~uint64_t{0}, word = row_word(row, w) & used;
    ends[w - begin] = (word ^ (word << 1 | before)) & used;
    before = word >> 63;
  }
}

// From rows of spike bits, one per step, to runs.
inline void list_runs(const PanelBits* bits, int64_t stride, int64_t n_in, int64_t steps, WriteRow write,
                      const SpikeRuns& runs, const SumsScratch& s) {
  const int64_t words = (n_in + 63) / 64;
  const uint64_t last_bits = used_bits(n_in);
  __builtin_memset(s.ends, 0, static_cast<size_t>(words) * sizeof(uint64_t));
  for (int64_t t = 0; t < steps; ++t) {
    run_ends(bits + t * stride, 0, words, words, last_bits, s.row);
    for (int64_t w = 0; w < words; ++w) s.ends[w] |= s.row[w];
  }
  int64_t begin = 0;
  while (begin < words - 1 && !s.ends[begin]) ++begin;
  int64_t first = begin * 64 + (s.ends[begin] ? __builtin_ctzll(s.ends[begin]) : 0);
  int64_t count = 0;
  uint16_t* ids = runs.lists.ids;
  for (int64_t end; begin < words; begin = end, first = begin * 64, ++count) {
    end = begin;
    for (int64_t sums = 2; end < words; ++end) {  // the first and the last one are always there
      sums += __builtin_popcountll(s.ends[end]);
      if (sums > kMostSums) break;
    }
    const int64_t end_input = end * 64 < n_in ? end * 64 : n_in;
    uint16_t at = 0;
    for (int64_t i = first; i < end_input; ++i) {
      at = static_cast<uint16_t>(at + (i > first && s.ends[i / 64] >> (i % 64) & 1u));
      runs.at[i] = at;
    }
    const auto last = static_cast<uint16_t>(at + 1);
    runs.segments[count] = {static_cast<int32_t>(first), static_cast<int32_t>(end_input)};
    for (int64_t t = 0; t < steps; ++t) {
      run_ends(bits + t * stride, begin, end, words, last_bits, s.row);
      int n = 0;
      for (int64_t w = 0; w < end - begin; ++w) n += __builtin_popcountll(s.row[w]);
      runs.lists.counts[t] = (n + 1) / 2 * 2;
    }
    ids = list_segment(count, steps, runs.lists, ids, [&](int64_t t, uint16_t* list) {
      run_ends(bits + t * stride, begin, end, words, last_bits, s.row);
      int64_t n = write(s.row, 0, end - begin, ~uint64_t{0}, list);
      const uint16_t* const at_bit = runs.at + begin * 64 - 1;  // ids begin with 1
      for (int64_t k = 0; k < n; ++k) list[k] = at_bit[list[k]];
      if (n % 2) list[n++] = last;
      return n;
    });
  }
  *runs.count = static_cast<int32_t>(count);
}

// The prefix sums of a segment for V vectors of outputs, whose rows are at `rows`. Fetches the rows of other outputs,
// of `next_width`, at `next`, if that is not null.
template <int V>
SNNFAST_INLINE void sum_rows(const int32_t* rows, const SpikeRuns& runs, const RunSegment& segment, const int32_t* next,
                             int64_t next_width, int32_t* sums) {
  constexpr int L = Vec::lanes;
  constexpr int64_t kLineIntegers = 64 / sizeof(int32_t);
  Integers sum[V];
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) {
    sum[v] = whole_number(0);
    store(sums + v * L, sum[v]);
  }
  const uint16_t *const order = runs.order, *const at = runs.at;
  const int64_t end = segment.end;
  for (int64_t i = segment.first; i < end; ++i) {
    const int64_t input = order[i];
    const int32_t* const row = rows + input * (V * L);
    int32_t* const to = sums + (at[i] + 1) * (V * L);
    if (next) {
      const int32_t* const far = next + input * next_width;
#pragma GCC unroll 4
      for (int64_t k = 0; k < V * L; k += kLineIntegers) __builtin_prefetch(far + k, 0, 2);
    }
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      sum[v] = sum[v] + load(row + v * L);
      store(to + v * L, sum[v]);
    }
  }
}

// V vectors of outputs for a group of N steps: which, says `step`.
template <int V, int N>
SNNFAST_INLINE void group_runs(const int32_t* sums, const uint16_t* ids, int64_t length, const int32_t* step,
                               const float* scale, const float* bias, bool first, bool last, int32_t* partial,
                               float* currents) {
  constexpr int L = Vec::lanes;
  Integers h[N][V];
#pragma GCC unroll 8
  for (int i = 0; i < N; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) h[i][v] = first ? whole_number(0) : load(partial + step[i] * (V * L) + v * L);
  }
  for (int64_t k = 0; k < length; k += 2) {
    const IdsBeside<N> begins(ids + k * N), ends(ids + (k + 1) * N);
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) {
      const int32_t *before = sums + begins[i] * V, *after = sums + ends[i] * V;
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) h[i][v] = h[i][v] - load(before + v * L) + load(after + v * L);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < N; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      if (last) {  // the scale is a power of two
        store(currents + step[i] * kPanel + v * L,
              multiply_add(to_float(h[i][v]), load(scale + v * L), load(bias + v * L)));
      } else {
        store(partial + step[i] * (V * L) + v * L, h[i][v]);
      }
    }
  }
}

// Who fetches the next outputs' rows: so many samples, this one being the part-th. Each fetches a part of them, as they
// sum different rows; a single one only those that it is going to sum.
struct FetchAhead {
  int64_t part, parts;  // parts: 0 if nobody does
};

// Currents of the V vectors of outputs that begin at `output`: of step t at currents[t * kPanel].
template <int V>
__attribute__((noinline)) void run_currents(const LayerView& layer, int64_t output, const SpikeRuns& runs,
                                            int64_t steps, FetchAhead fetch, const SumsScratch& s, float* currents) {
  constexpr int64_t kLineIntegers = 64 / sizeof(int32_t);
  const int64_t next = output + V * Vec::lanes, groups = groups_of(steps), count = *runs.count;
  const int32_t* const rows = layer.sums->rows + output * layer.n_in;
  const float *scale = layer.sums->scale + output, *bias = layer.bias + output;
  const int64_t next_width = layer.padded - next < kSumRow ? layer.padded - next : kSumRow;
  const int32_t* const next_rows = layer.sums->rows + next * layer.n_in;
  const bool alone = fetch.parts == 1 && next_width > 0;
  const int64_t times = groups * count;
  const int64_t lines = fetch.parts > 1 ? next_width * layer.n_in / (fetch.parts * kLineIntegers) : 0;
  const int64_t ahead = (lines + times - 1) / times;  // to fetch beside a group; perhaps some of the next part
  const int32_t* following = next_rows + fetch.part * lines * kLineIntegers;
  const uint16_t* ids = runs.lists.ids;
  const int32_t* step = runs.lists.steps;
  for (int64_t c = 0; c < count; ++c) {
    sum_rows<V>(rows, runs, runs.segments[c], alone ? next_rows : nullptr, next_width, s.sums);
    for (int64_t g = 0; g < groups; ++g) {
      for (int64_t i = 0; i < ahead; ++i) __builtin_prefetch(following + i * kLineIntegers, 0, 2);
      following += ahead * kLineIntegers;
      const int64_t length = runs.lists.lengths[c * groups + g], n = group_lists(steps, g * kSteps);
      const bool first = c == 0, last = c == count - 1;
      if (n == kSteps) {
        group_runs<V, kSteps>(s.sums, ids, length, step, scale, bias, first, last, s.partial, currents);
      } else {
        group_runs<V, kSteps / 2>(s.sums, ids, length, step, scale, bias, first, last, s.partial, currents);
      }
      ids += n * length;
      step += kSteps;
    }
  }
}

}  // namespace
}  // namespace snnfast
