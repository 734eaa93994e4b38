// SPDX-License-Identifier: Apache-2.0
// Method "prefix sums": the second layer's currents when the first one has a constant current. With the first layer's
// neurons sorted by their currents, those that fire in a step stand side by side in few runs (spike_runs.h), as
// neighbours have fired about as often; and what a run adds is a difference of two prefix sums of the weight rows in
// that order: a load where it begins and one where it ends, instead of one for every spike. The weights are whole
// numbers (core/integer_rows.h), whose sums are exact whatever the order and may even wrap on the way.
#pragma once

#include "cpu/panels.h"
#include "cpu/spike_runs.h"

namespace snnfast {
namespace {

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

// Adds up the prefix sums of a list, of all steps of a group. Ids of two places are loaded at once: on AMD's Zen 5 such
// a load takes as long as those of two vectors.
template <int V>
SNNFAST_INLINE void add_sums(const int32_t* sums, const uint16_t* ids, int64_t length, Integers (*h)[V]) {
  constexpr int L = Vec::lanes, N = kRunSteps;
  for (int64_t k = 0; k < length; ++k) {
    const IdsBeside<2 * N> at(ids + k * N);
    const auto add = [&](int place) SNNFAST_ALWAYS {
#pragma GCC unroll 2
      for (int i = 0; i < N; ++i) {
        const int32_t* const sum = sums + at[place * N + i] * V;
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) h[i][v] = h[i][v] + load(sum + v * L);
      }
    };
    add(0);
    if (++k == length) break;
    add(1);
  }
}

// Takes off the sums where runs begin and adds those where they end.
template <int V>
SNNFAST_INLINE void add_runs(const int32_t* sums, const uint16_t* begins, int64_t length, Integers (*h)[V]) {
  constexpr int L = Vec::lanes, N = kRunSteps;
  const uint16_t* const ends = begins + length * N;
  for (int64_t k = 0; k < length; ++k) {
    const IdsBeside<2 * N> begin(begins + k * N), end(ends + k * N);
    const auto add = [&](int place) SNNFAST_ALWAYS {
#pragma GCC unroll 2
      for (int i = 0; i < N; ++i) {
        const int32_t *const before = sums + begin[place * N + i] * V, *const after = sums + end[place * N + i] * V;
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) h[i][v] = h[i][v] - load(before + v * L) + load(after + v * L);
      }
    };
    add(0);
    if (++k == length) break;
    add(1);
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
