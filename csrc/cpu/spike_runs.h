// SPDX-License-Identifier: Apache-2.0
// For method "prefix sums": neurons sorted by their constant currents, and the runs of neighbours that fire in a step,
// as lists of where they begin and end.
//
// Mostly the next run ends where one begins: neurons with a little less current fire one step later. Such a prefix sum
// is taken off in a step and added in the next one. So each step has a list of its own of those, for a sum that both of
// them take: one load for the two. What cannot be matched so is loaded twice. That nearly halves the loads of a wide
// layer.
//
// Where runs begin and end is taken from the spikes themselves, so that the result rests on no law about them; only
// that there are few runs does.
//
// Prefix sums are kept at those places only at which some step has an end of a run, and inputs are cut into segments
// that have few enough of them for the first cache.
#pragma once

#include "cpu/event_currents.h"
#include "cpu/kernels.h"
#include "cpu/simd.h"
#include "cpu/spike_ids.h"

namespace snnfast {
namespace {

constexpr int kSumVectors = Vec::lanes == 16 ? 2 : 4;  // a row of weights, of SumsView
constexpr int64_t kSumRow = kSumVectors * Vec::lanes;  // its outputs
constexpr int kRunSteps = 2;                           // side by side, one after the other; shorter lists are filled up
constexpr int kRunKinds = 3;                           // lists of a step
// Prefix sums of a segment: three quarters of the smallest first caches; the rest is for rows and currents. There are
// always enough for one word of spikes.
constexpr int64_t kMostSums = (24 << 10) / (4 * kSumRow);
static_assert(kMostSums > 64 + 2 && kMostSums <= kLongestList);
static_assert((kMostSums + 64) * Vec::lanes < 1 << 16, "a list's ids have 16 bits");
static_assert(kSteps % kRunSteps == 0, "ids have room for whole groups of either");
static_assert(kRunSteps <= 2, "there is a row for one step of nobody's");

// One or two inputs that are summed next, and which prefix sum then is there. Inputs between which no run ever begins
// or ends need none between them: to store sums takes longer than to add rows.
struct SumStep {
  uint16_t input, other, sum;
};

// Inputs before the first segment's have no part in any run.
struct RunSegment {
  int32_t first;       // input
  int32_t begin, end;  // of its steps
  bool in_pairs;       // they have two inputs; where there is one, the other's weights are zeros
};

// The runs of one sample in a tile of steps.
struct SpikeRuns {
  uint16_t* order;  // (inputs): input order[i] is the i-th
  uint16_t* at;     // (inputs): the prefix sum of its segment that comes before place i, if a run begins or ends there
  SumStep* summed;  // (inputs)
  RunSegment* segments;
  int32_t* count;  // of segments
  // Of prefix sums, with three lists a step: where a run begins and the next step's ends, where others begin, where
  // others end. Those of a group of steps are equally long, the second as long as the third, and lie side by side.
  uint16_t* ids;
  struct Lengths {
    int32_t matched, rest;
  };
  Lengths* lengths;  // (segments, groups)
};

inline int64_t run_groups(int64_t steps) { return (steps + kRunSteps - 1) / kRunSteps; }

// Ids of a step at most: as many runs as every other input, and another one in every segment.
inline int64_t run_ids(int64_t inputs) { return inputs + inputs / 2 + 2 * ((inputs + 63) / 64); }

// ids: as much memory as run_ids takes for every step, in whole groups, and kRunSteps * kBeside more.
template <class Arena>
SpikeRuns take_runs(Arena& arena, int64_t inputs, int64_t steps, uint16_t* ids) {
  SpikeRuns runs;
  runs.order = arena.template take<uint16_t>(inputs);
  runs.at = arena.template take<uint16_t>(inputs);
  runs.summed = arena.template take<SumStep>(inputs);
  runs.segments = arena.template take<RunSegment>((inputs + 63) / 64);
  runs.count = arena.template take<int32_t>(1);
  runs.ids = ids;
  runs.lengths = arena.template take<SpikeRuns::Lengths>((inputs + 63) / 64 * run_groups(steps));
  return runs;
}

// What a block's samples share while one of them is at work.
struct SumsScratch {
  uint32_t* keys;             // (inputs)
  uint16_t* chosen;           // (inputs): those with a current above zero
  uint16_t* half;             // (inputs): sorted by half of the key
  float* unsorted;            // (padded inputs)
  uint64_t* ends;             // (words): the places at which some run begins or ends
  uint64_t *begins, *finish;  // (words): where a step's runs begin, and where they end
  uint64_t* rows;             // (kRunKinds, kRunSteps, words): of a group of steps
  int32_t* sums;              // (kMostSums + 64, kSumRow): numbered by bits, they begin within a word
  int32_t* partial;           // (steps, kSumRow): currents as far as they are summed; a row more that nobody reads
};

template <class Arena>
SumsScratch take_sums(Arena& arena, int64_t inputs, int64_t padded, int64_t steps) {
  SumsScratch s;
  s.keys = arena.template take<uint32_t>(inputs);
  s.chosen = arena.template take<uint16_t>(inputs);
  s.half = arena.template take<uint16_t>(inputs);
  s.unsorted = arena.template take<float>(padded);
  s.ends = arena.template take<uint64_t>((inputs + 63) / 64);
  s.begins = arena.template take<uint64_t>((inputs + 63) / 64);
  s.finish = arena.template take<uint64_t>((inputs + 63) / 64);
  s.rows = arena.template take<uint64_t>(kRunKinds * kRunSteps * ((inputs + 63) / 64));
  s.sums = arena.template take<int32_t>((kMostSums + 64) * kSumRow);
  s.partial = arena.template take<int32_t>((steps + 1) * kSumRow);
  return s;
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

// Where runs begin and end: a word of a row of spikes, and the highest bit of the word before.
struct WordEnds {
  uint64_t begins, ends;
  SNNFAST_INLINE WordEnds(const PanelBits* row, int64_t w, bool first, uint64_t used) {
    const uint64_t word = row_word(row, w) & used;
    const uint64_t before = word << 1 | (first ? 0 : row_word(row, w - 1) >> 63);
    begins = word & ~before;
    ends = before & ~word & used;
  }
};

// What of a layer's spikes is a segment: words begin .. end - 1 of rows, which have `last_bits` of their last word.
struct RunWords {
  const PanelBits* bits;
  int64_t stride, begin, end, last_word;
  uint64_t last_bits;
  SNNFAST_INLINE WordEnds at(int64_t step, int64_t w) const {
    return {bits + step * stride, w, w == begin, w == last_word ? last_bits : ~uint64_t{0}};
  }
  // Whether the last neuron fires, whose run has no end here.
  SNNFAST_INLINE bool goes_on(int64_t step) const {
    const uint64_t used = end - 1 == last_word ? last_bits : ~uint64_t{0};
    return (row_word(bits + step * stride, end - 1) & used & ~(used >> 1)) != 0;
  }
};

// Fills lists up to the longest one and puts them beside each other. Returns where that ends.
SNNFAST_INLINE uint16_t* fill_beside(List* lists, const int64_t* counts, int64_t length, uint16_t* ids) {
  for (int i = 0; i < kRunSteps; ++i) {
    int64_t k = counts[i];
    do {  // once, nearly always
      __builtin_memset(lists[i] + k, 0, kAtOnce * sizeof(uint16_t));
      k += kAtOnce;
    } while (k < length + kBeside);
  }
  put_beside<kRunSteps>(lists, length, ids);
  return ids + kRunSteps * length;
}

// Lists a segment's runs; returns where the ids end. at_bit: from a bit's number, from 1 on, to its prefix sum; null:
// no other number. last: the sum of the whole segment.
inline uint16_t* list_segment_runs(const RunWords& words, int64_t steps, WriteRows write, const uint16_t* at_bit,
                                   uint16_t last, const SumsScratch& s, SpikeRuns::Lengths* lengths, uint16_t* ids) {
  constexpr int N = kRunSteps;
  const int64_t width = words.end - words.begin;
  List lists[kRunKinds * N];
  for (int64_t w = 0; w < width; ++w) {
    const WordEnds first = words.at(0, words.begin + w);
    s.begins[w] = first.begins;
    s.finish[w] = first.ends;  // none that has been matched
  }
  for (int64_t t0 = 0; t0 < steps; t0 += N) {
#pragma GCC unroll 1
    for (int64_t i = 0; i < N; ++i) {
      uint64_t *const matched = s.rows + i * width, *const begins = matched + N * width,
                      *const ends = begins + N * width;
      const int64_t next = t0 + i + 1;
      const uint64_t there = next < steps ? ~uint64_t{0} : 0;
      for (int64_t w = 0; w < width; ++w) {
        const WordEnds of_next = words.at(there ? next : 0, words.begin + w);
        matched[w] = s.begins[w] & of_next.ends & there;
        begins[w] = s.begins[w] ^ matched[w];
        ends[w] = s.finish[w];
        s.begins[w] = of_next.begins & there;
        s.finish[w] = (of_next.ends & there) ^ matched[w];
      }
    }
    int64_t counts[kRunKinds * N];
    write(s.rows, width, kRunKinds * N, lists[0], sizeof(List) / sizeof(uint16_t), counts);
    for (int i = 0; at_bit && i < kRunKinds * N; ++i) {
      for (int64_t k = 0; k < counts[i]; ++k) lists[i][k] = at_bit[lists[i][k]];
    }
    int64_t most = 0, rest = 0;
#pragma GCC unroll 1
    for (int64_t i = 0; i < N; ++i) {
      if (t0 + i < steps && words.goes_on(t0 + i)) lists[2 * N + i][counts[2 * N + i]++] = last;
      most = counts[i] > most ? counts[i] : most;
      rest = counts[N + i] > rest ? counts[N + i] : rest;
      rest = counts[2 * N + i] > rest ? counts[2 * N + i] : rest;
    }
    *lengths++ = {static_cast<int32_t>(most), static_cast<int32_t>(rest)};
#pragma GCC unroll 1
    for (int kind = 0; kind < kRunKinds; ++kind) {
      ids = fill_beside(lists + kind * N, counts + kind * N, kind == 0 ? most : rest, ids);
    }
  }
  return ids;
}

// From rows of spike bits, one per step, to runs.
inline void list_runs(const PanelBits* bits, int64_t stride, int64_t n_in, int64_t steps, WriteRows write,
                      const SpikeRuns& runs, const SumsScratch& s) {
  const int64_t last_word = (n_in - 1) / 64;
  const uint64_t last_bits = used_bits(n_in);
  RunWords words{bits, stride, 0, last_word + 1, last_word, last_bits};
  uint64_t* const places = s.ends;
  __builtin_memset(places, 0, static_cast<size_t>(last_word + 1) * sizeof(uint64_t));
  for (int64_t t = 0; t < steps; ++t) {
    for (int64_t w = 0; w <= last_word; ++w) places[w] |= row_word(bits + t * stride, w);
  }
  places[last_word] &= last_bits;
  while (words.begin < last_word && !places[words.begin]) ++words.begin;
  const uint64_t begin_bits = places[words.begin];
  int64_t first = words.begin * 64 + (begin_bits ? __builtin_ctzll(begin_bits) : 0);
  uint16_t* ids = runs.ids;
  const bool all = n_in - first + 2 <= kMostSums;  // places have a sum: a bit's number is its sum's
  if (!all) {
    for (int64_t w = words.begin; w <= last_word; ++w) places[w] = 0;
    for (int64_t t = 0; t < steps; ++t) {
      for (int64_t w = words.begin; w <= last_word; ++w) {
        const WordEnds here = words.at(t, w);
        places[w] |= here.begins | here.ends;
      }
    }
  }
  const auto zeros = static_cast<uint16_t>(n_in);
  int64_t count = 0, summed = 0;
  for (; words.begin <= last_word; words.begin = words.end, first = words.begin * 64, ++count) {
    words.end = all ? last_word + 1 : words.begin;
    for (int64_t sums = 2; words.end <= last_word; ++words.end) {  // the first and the last one are always there
      sums += __builtin_popcountll(places[words.end]);
      if (sums > kMostSums) break;
    }
    const int64_t end_input = words.end * 64 < n_in ? words.end * 64 : n_in;
    auto at = static_cast<uint16_t>(all ? first % 64 + 1 : 0);
    const int64_t begin = summed;
    bool half = false;  // the last step has one input, and the next one's would be the same sum
    for (int64_t i = first; i < end_input; ++i) {
      const bool starts = i > first && (all || (places[i / 64] >> (i % 64) & 1u));
      at = static_cast<uint16_t>(at + starts);
      runs.at[i] = at;
      half = half && !starts;
      summed -= half;
      SumStep& step = runs.summed[summed++];
      const uint16_t input = runs.order[i];
      step = {half ? step.input : input, half ? input : zeros, static_cast<uint16_t>(at + 1)};
      half = !half;
    }
    runs.segments[count] = {static_cast<int32_t>(first), static_cast<int32_t>(begin), static_cast<int32_t>(summed),
                            !all};
    ids = list_segment_runs(words, steps, write, all ? nullptr : runs.at + words.begin * 64 - 1,
                            static_cast<uint16_t>(at + 1), s, runs.lengths + count * run_groups(steps), ids);
  }
  *runs.count = static_cast<int32_t>(count);
}

}  // namespace
}  // namespace snnfast
