// SPDX-License-Identifier: Apache-2.0
// Method "prefix sums": the second layer's currents when the first one has a constant current. With the first layer's
// neurons sorted by their currents, those that fire in a step stand side by side in few runs, as neighbours have fired
// about as often; and what a run adds is a difference of two prefix sums of the weight rows in that order: a load where
// it begins and one where it ends, instead of one for every spike. The weights are whole numbers (core/integer_rows.h),
// whose sums are exact whatever the order and may even wrap on the way.
//
// Mostly the next run ends where one begins: neurons with a little less current fire one step later. Such a prefix sum
// is taken off in a step and added in the next one. So each step has a sum of its own of those, which both of them
// take: one load for the two. What cannot be matched so is loaded twice. That nearly
// halves the loads of a wide layer.
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

// What two ways to add up a sample's currents, of so many vectors, cost in loads of one of them, told from the first
// layer's currents alone: of plain neurons one that has the share a of the threshold fires in a of the steps. An end of
// a run is a pair of neighbours of which one fires. Their trains shift against each other with time, so that they
// differ in about T^2 times the difference of a; at most, as independent ones do, in 2 a (1 - a) of the steps.
struct SumsCost {
  float spikes, sums, firing;  // firing: neurons
};
inline SumsCost sums_cost(const float* current, int64_t padded, float threshold, int64_t steps, float vectors) {
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
  // Two ends that are matched take one load; to make a prefix sum takes a load and a store; and to sort the neurons and
  // list the runs takes longer than to list the spikes. Measured on a Xeon with AVX-512, and checked with AVX2.
  constexpr float kLoadsPerEnd = 0.6f, kLoadsPerRow = 2.0f, kLoadsPerStep = 140.0f;
  const float ends = shifted < independent ? shifted : independent;
  return {t * sum[0][0], kLoadsPerEnd * ends + kLoadsPerRow * sum[3][0] + kLoadsPerStep * t / vectors, sum[3][0]};
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

// The prefix sums of a segment for V vectors of outputs, whose rows are at `rows`.
template <int V, bool Pairs>
SNNFAST_INLINE void sum_rows(const int32_t* rows, const SumStep* step, const SumStep* end, int32_t* sums) {
  constexpr int L = Vec::lanes;
  const auto place = [](int64_t number) { return number * (V * L); };
  Integers sum[V];
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) {
    sum[v] = whole_number(0);
    store(sums + v * L, sum[v]);
    store(sums + place(step->sum - 1) + v * L, sum[v]);  // before the first input
  }
  for (; step != end; ++step) {
    const int32_t *const row = rows + place(step->input), *const other = rows + place(step->other);
    int32_t* const to = sums + place(step->sum);
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      sum[v] = sum[v] + (Pairs ? load(row + v * L) + load(other + v * L) : load(row + v * L));
      store(to + v * L, sum[v]);
    }
  }
}

// Adds up the prefix sums of a list, of all steps of a group.
template <int V>
SNNFAST_INLINE void add_sums(const int32_t* sums, const uint16_t* ids, int64_t length, Integers (*h)[V]) {
  constexpr int L = Vec::lanes, N = kRunSteps;
  for (const uint16_t* const end = ids + length * N; ids != end; ids += N) {
    const IdsBeside<N> at(ids);
#pragma GCC unroll 2
    for (int i = 0; i < N; ++i) {
      const int32_t* const sum = sums + at[i] * V;
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) h[i][v] = h[i][v] + load(sum + v * L);
    }
  }
}

// Takes off the sums where runs begin and adds those where they end.
template <int V>
SNNFAST_INLINE void add_runs(const int32_t* sums, const uint16_t* begins, int64_t length, Integers (*h)[V]) {
  constexpr int L = Vec::lanes, N = kRunSteps;
  const uint16_t* const ends = begins + length * N;
  for (int64_t k = 0; k < length * N; k += N) {
    const IdsBeside<N> begin(begins + k), end(ends + k);
#pragma GCC unroll 2
    for (int i = 0; i < N; ++i) {
      const int32_t *const before = sums + begin[i] * V, *const after = sums + end[i] * V;
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) h[i][v] = h[i][v] - load(before + v * L) + load(after + v * L);
    }
  }
}

// Outputs of the panel of SumsView that begins at one: few lack to a whole one, so less code is compiled for those.
SNNFAST_INLINE int64_t sum_width(const LayerView& layer, int64_t output) {
  return layer.padded - output < kSumRow ? Vec::lanes : kSumRow;
}

// Who fetches the next outputs' rows: so many samples, this one being the part-th. Each fetches a part of them, as they
// sum different rows; a single one only those that it is going to sum.
struct FetchAhead {
  int64_t part, parts;  // parts: 0 if nobody does
};

// What is to be fetched in how many turns: lines, one after the other, or rows of inputs in their order.
class Fetching {
 public:
  Fetching(const LayerView& layer, int64_t next, FetchAhead fetch, const SpikeRuns& runs, int64_t turns)
      : rows_(layer.sums->rows + next * (layer.n_in + 1)), order_(runs.order), inputs_(layer.n_in) {
    if (fetch.parts == 0 || next == layer.padded) return;
    width_ = sum_width(layer, next);
    first_ = runs.segments[0].first;
    alone_ = fetch.parts == 1;
    const int64_t lines = width_ * inputs_ / (fetch.parts * kLine);
    if (!alone_) rows_ += fetch.part * lines * kLine;
    left_ = alone_ ? inputs_ - first_ : width_ * inputs_ / kLine - fetch.part * lines;
    each_ = ((alone_ ? left_ : lines) + turns - 1) / turns;  // perhaps some of the next part
  }
  SNNFAST_INLINE void turn() {
    if (each_ > 0) fetch();
  }

 private:
  __attribute__((noinline)) void fetch() {
    const int64_t now = each_ < left_ ? each_ : left_;
    left_ -= now;
    if (!alone_) {
      for (int64_t i = 0; i < now; ++i) __builtin_prefetch(rows_ + i * kLine, 0, 2);
      rows_ += now * kLine;
      return;
    }
    for (const int64_t end = first_ + now; first_ < end; ++first_) {
      const int32_t* const row = rows_ + order_[first_] * width_;
      for (int64_t k = 0; k < width_; k += kLine) __builtin_prefetch(row + k, 0, 2);
    }
  }

  const int32_t* rows_;
  const uint16_t* order_;
  int64_t inputs_, width_ = 0, first_ = 0, left_ = 0, each_ = 0;
  bool alone_ = false;
};

// Currents of the V vectors of outputs that begin at `output`: of step t at currents[t * kPanel]. There is a row for
// nobody's step after the last.
template <int V>
__attribute__((noinline)) void run_currents(const LayerView& layer, int64_t output, const SpikeRuns& runs,
                                            int64_t steps, FetchAhead fetch, const SumsScratch& s, float* currents) {
  constexpr int L = Vec::lanes, N = kRunSteps;
  const int64_t groups = run_groups(steps), count = *runs.count;
  Fetching fetching(layer, output + V * L, fetch, runs, groups * count);
  Vec scale[V], bias[V];
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) {
    scale[v] = load(layer.sums->scale + output + v * L);  // powers of two
    bias[v] = load(layer.bias + output + v * L);
  }
  const int32_t *const rows = layer.sums->rows + output * (layer.n_in + 1), *const sums = s.sums;
  const uint16_t* ids = runs.ids;
  const SpikeRuns::Lengths* lengths = runs.lengths;
  for (int64_t c = 0; c < count; ++c) {
    const RunSegment& segment = runs.segments[c];
    const SumStep *const begin = runs.summed + segment.begin, *const end = runs.summed + segment.end;
    if (segment.in_pairs) {
      sum_rows<V, true>(rows, begin, end, s.sums);
    } else {
      sum_rows<V, false>(rows, begin, end, s.sums);
    }
    const bool first = c == 0, last = c == count - 1;
    Integers matched[V];  // of the step before
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) matched[v] = whole_number(0);
    for (int64_t t = 0; t < groups * N; t += N, ++lengths) {
      fetching.turn();
      Integers here[N][V], h[N][V];
#pragma GCC unroll 2
      for (int i = 0; i < N; ++i) {
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) here[i][v] = whole_number(0);
      }
      add_sums<V>(sums, ids, lengths->matched, here);
      ids += lengths->matched * N;
      int32_t* const partial = s.partial + t * (V * L);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
#pragma GCC unroll 2
        for (int i = 0; i < N; ++i) {
          h[i][v] = (i == 0 ? matched[v] : here[i - 1][v]) - here[i][v];
          if (!first) h[i][v] = h[i][v] + load(partial + (i * V + v) * L);
        }
        matched[v] = here[N - 1][v];
      }
      add_runs<V>(sums, ids, lengths->rest, h);
      ids += 2 * lengths->rest * N;
#pragma GCC unroll 2
      for (int i = 0; i < N; ++i) {
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
          if (last) {
            store(currents + (t + i) * kPanel + v * L, multiply_add(to_float(h[i][v]), scale[v], bias[v]));
          } else {
            store(partial + (i * V + v) * L, h[i][v]);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace snnfast
