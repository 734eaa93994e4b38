// SPDX-License-Identifier: Apache-2.0
// Method "events": from a layer's input spikes, as bits, to its currents over a tile of time steps. Adding the weight
// rows of the inputs that spiked, ascending, gives the same bits as multiplying every weight by 0 or 1 and adding,
// because x + 0 is x (sums begin at +0, so no sum is ever -0).
//
// What such sums cost is loading rows. So outputs are cut so narrow, and inputs into segments so short, that the rows
// in use stay in the first cache. Reading which rows takes loads as well: one for all the steps of a group, which are
// summed side by side, several chains of additions at once. They have about as many spikes each, and the shorter lists
// are filled up with a row of zeros: without that, every list's end would be a branch that nobody can predict.
#pragma once

#include "cpu/kernels.h"
#include "cpu/panels.h"
#include "cpu/segments.h"
#include "cpu/simd.h"
#include "cpu/spike_ids.h"

namespace snnfast {
namespace {

// The spikes of one panel in one step: one bit per neuron. Panels lie side by side, so a row of them is a row of bits.
#if defined(__AVX512F__) && defined(__AVX512DQ__)
using PanelBits = uint64_t;
#elif defined(__AVX2__)
using PanelBits = uint32_t;
#else
using PanelBits = uint16_t;
#endif
constexpr int64_t kPanelBytes = sizeof(PanelBits);
static_assert(kPanelBytes * 8 == kPanel, "a panel's spikes fill its word");

// Words in a row of spike bits, so that it can be read 64 bits at a time.
constexpr int64_t kPanelsPerWord = 8 / kPanelBytes;
inline int64_t bits_stride(int64_t panels) { return (panels + kPanelsPerWord - 1) / kPanelsPerWord * kPanelsPerWord; }

// The bits of the last word of a row of spikes that stand for neurons; nobody has written the others.
SNNFAST_INLINE uint64_t used_bits(int64_t neurons) {
  const int64_t used = (neurons - 1) % 64 + 1;
  return used == 64 ? ~uint64_t{0} : (uint64_t{1} << used) - 1;
}

constexpr int kRowVectors = Vec::lanes == 4 ? 4 : 2;    // a row of weights, of LayerView::rows
constexpr int64_t kRow = kRowVectors * Vec::lanes;      // its outputs
constexpr int kSteps = Vec::lanes == 4 ? 2 : 4;         // side by side: chains enough to hide an addition's latency
constexpr int64_t kMostRows = (32 << 10) / (4 * kRow);  // of a segment: as much as the smallest first caches hold
static_assert(kMostRows % 64 == 0, "segments are whole words of spikes");
static_assert((kMostRows + 1) * Vec::lanes < 1 << 16, "a list's ids have 16 bits");

// The inputs that spiked, as lists: for every segment, for every group of steps, as many lists as there are steps in a
// group (see group_lists), equally long. They lie side by side: every list's first id, then every list's second, so
// that one load has an id of each. What fills them up is 0, the row of zeros; input k of a segment is k + 1. They are
// multiplied by the lanes of a vector: where a row of one vector begins, which addresses of wider ones are made of at
// no cost.
struct SpikeLists {
  uint16_t* ids;
  int32_t* steps;    // (segments, steps in whole groups): which step's list it is; past the last step: nobody's
  int32_t* lengths;  // (segments, groups): of a group's lists
  int32_t* counts;   // (steps): scratch
};

inline int64_t groups_of(int64_t steps) { return (steps + kSteps - 1) / kSteps; }

// Lists of the group whose first is the i-th step: the last group may do with half as many.
inline int64_t group_lists(int64_t steps, int64_t i) { return steps - i <= kSteps / 2 ? kSteps / 2 : kSteps; }

constexpr int64_t kLongestList = 512;
static_assert(kMostRows <= kLongestList);

constexpr int64_t kBeside = 8;  // ids of a list that are put beside the others' at once
static_assert(kBeside <= kAtOnce, "what is read past a list's end is within it");
static_assert(2 <= kBeside, "ids are read two places ahead");

// Room for lists of up to `ids` ids a step, cut into up to so many segments.
template <class Arena>
SpikeLists take_lists(Arena& arena, int64_t ids, int64_t segments, int64_t steps) {
  const int64_t places = groups_of(steps) * kSteps;
  SpikeLists lists;
  lists.ids = arena.template take<uint16_t>(places * ids + kSteps * kBeside);
  lists.steps = arena.template take<int32_t>(segments * places);
  lists.lengths = arena.template take<int32_t>(segments * groups_of(steps));
  lists.counts = arena.template take<int32_t>(steps);
  return lists;
}

// Steps by their number of spikes, most first: places[i] is the i-th.
inline void sort_by_count(const int32_t* counts, int64_t steps, int32_t* places) {
  int32_t least = counts[0], most = counts[0];
  for (int64_t t = 1; t < steps; ++t) {
    least = counts[t] < least ? counts[t] : least;
    most = counts[t] > most ? counts[t] : most;
  }
  int32_t first[kLongestList + 1];  // first[c], in the end: how many steps have more than c spikes
  __builtin_memset(first + least, 0, static_cast<size_t>(most - least + 1) * sizeof(int32_t));
  for (int64_t t = 0; t < steps; ++t) ++first[counts[t]];
  int32_t more = 0;
  for (int32_t c = most; c >= least; --c) {
    const int32_t here = first[c];
    first[c] = more;
    more += here;
  }
  for (int64_t t = 0; t < steps; ++t) places[first[counts[t]]++] = static_cast<int32_t>(t);
}

// One list, with what may be written past its end.
using List = uint16_t[kLongestList + 2 * kAtOnce];

// N lists side by side, multiplied; writes up to N * kBeside ids too many.
template <int N>
SNNFAST_INLINE void put_beside(const List* lists, int64_t length, uint16_t* ids) {
  for (int64_t k = 0; k < length; k += kBeside) {
#if defined(__SSE2__)
    __m128i list[N];
#pragma GCC unroll 4
    for (int i = 0; i < N; ++i) {
      list[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(lists[i] + k));
      list[i] = _mm_slli_epi16(list[i], __builtin_ctz(Vec::lanes));
    }
    const auto put = [&](int part, __m128i eight) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(ids + k * N) + part, eight);
    };
    if constexpr (N == 1) {
      put(0, list[0]);
    } else {
      const __m128i low = _mm_unpacklo_epi16(list[0], list[1]), high = _mm_unpackhi_epi16(list[0], list[1]);
      if constexpr (N == 2) {
        put(0, low);
        put(1, high);
      } else {
        const __m128i low2 = _mm_unpacklo_epi16(list[2], list[3]), high2 = _mm_unpackhi_epi16(list[2], list[3]);
        put(0, _mm_unpacklo_epi32(low, low2));
        put(1, _mm_unpackhi_epi32(low, low2));
        put(2, _mm_unpacklo_epi32(high, high2));
        put(3, _mm_unpackhi_epi32(high, high2));
      }
    }
#else
    for (int64_t j = 0; j < kBeside; ++j) {
      for (int i = 0; i < N; ++i) ids[(k + j) * N + i] = static_cast<uint16_t>(lists[i][k + j] * Vec::lanes);
    }
#endif
  }
}

// The lists of segment s, written from `ids` on; returns where they end. How long each is, lists.counts says, and
// write(step, list) writes one and says so too.
template <class Write>
SNNFAST_INLINE uint16_t* list_segment(int64_t s, int64_t steps, const SpikeLists& lists, uint16_t* ids, Write&& write) {
  const int64_t groups = groups_of(steps), places = groups * kSteps;
  List list[kSteps];
  int32_t* const steps_of = lists.steps + s * places;
  sort_by_count(lists.counts, steps, steps_of);
  for (int64_t i = steps; i < places; ++i) steps_of[i] = static_cast<int32_t>(steps);
  for (int64_t g = 0; g < groups; ++g) {
    const int32_t* const step = steps_of + g * kSteps;
    const int32_t length = lists.counts[step[0]];
    const int64_t n = group_lists(steps, g * kSteps);
    lists.lengths[s * groups + g] = length;
    for (int64_t i = 0; i < n; ++i) {
      int64_t k = 0;
      if (step[i] < steps) k = write(step[i], list[i]);
      do {  // once, nearly always: lists of a group differ little
        __builtin_memset(list[i] + k, 0, kAtOnce * sizeof(uint16_t));
        k += kAtOnce;
      } while (k < length + kBeside);
    }
    if (n == kSteps) {
      put_beside<kSteps>(list, length, ids);
    } else {
      put_beside<kSteps / 2>(list, length, ids);
    }
    ids += n * length;
  }
  return ids;
}

// Lists of rows of spike bits, one per step.
inline void list_spikes(const PanelBits* bits, int64_t stride, int64_t n_in, int64_t steps, WriteRow write,
                        const SpikeLists& lists) {
  const Segments segments(n_in, kMostRows);
  const int64_t words = (n_in + 63) / 64;
  uint16_t* ids = lists.ids;
  for (int64_t s = 0; s < segments.count; ++s) {
    const int64_t begin = s * segments.inputs / 64, left = words - begin, whole_words = (segments.inputs + 63) / 64;
    const int64_t end = begin + (left < whole_words ? left : whole_words);
    const uint64_t end_bits = end == words ? used_bits(n_in) : ~uint64_t{0};
    for (int64_t t = 0; t < steps; ++t) {
      int count = 0;
      const PanelBits* row = bits + t * stride;
      for (int64_t w = begin; w < end - 1; ++w) count += __builtin_popcountll(row_word(row, w));
      count += __builtin_popcountll(row_word(row, end - 1) & end_bits);
      lists.counts[t] = count;
    }
    ids = list_segment(s, steps, lists, ids,
                       [&](int64_t t, uint16_t* list) { return write(bits + t * stride, begin, end, end_bits, list); });
  }
}

// The N ids of a place in N lists that lie side by side, the first one in the lowest bits.
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__);
template <int N>
struct IdsBeside {
  static_assert(N == 4 || N == 2 || N == 1);
  uint64_t all = 0;
  SNNFAST_INLINE explicit IdsBeside(const uint16_t* ids) { __builtin_memcpy(&all, ids, N * sizeof(uint16_t)); }
  SNNFAST_INLINE int64_t operator[](int i) const { return static_cast<int64_t>(all >> (16 * i) & 0xFFFFu); }
};

// Currents of V vectors of outputs for a group of N steps: which, says `step`. First, last: segment. What is added are
// vectors of type W: narrower ones than Vec where only their lanes are outputs.
template <int V, int N, class W>
SNNFAST_INLINE void group_currents(const float* rows, const float* bias, const uint16_t* ids, int64_t length,
                                   const int32_t* step, float* currents, bool first, bool last) {
  constexpr int L = Vec::lanes;
  float* to[N];
  W h[N][V];
#pragma GCC unroll 8
  for (int i = 0; i < N; ++i) {
    to[i] = currents + step[i] * kPanel;
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) h[i][v] = first ? broadcast_as<W>(0.0f) : load_as<W>(to[i] + v * L);
  }
  const auto add = [&](IdsBeside<N> at) SNNFAST_ALWAYS {
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) {
      const float* row = rows + at[i] * V;
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) h[i][v] = h[i][v] + load_as<W>(row + v * L);
    }
  };
  // Ids are loaded two places ahead, past the list's end at last: AMD's Zen 5 loads rows sooner then.
  IdsBeside<N> even(ids), odd(ids + N);
  for (int64_t k = 0; k < length; ++k) {
    add(even);
    even = IdsBeside<N>(ids + (k + 2) * N);
    if (++k == length) break;
    add(odd);
    odd = IdsBeside<N>(ids + (k + 2) * N);
  }
#pragma GCC unroll 8
  for (int i = 0; i < N; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      const Vec all = widen(h[i][v]);
      store(to[i] + v * L, last ? all + load(bias + v * L) : all);
    }
  }
}

constexpr int64_t kLine = 64 / sizeof(float);

// Currents of the V vectors of outputs that begin at `output`: of step t at currents[t * kPanel]. There is a row for
// nobody's step after the last.
template <int V, class W>
__attribute__((noinline)) void event_currents(const LayerView& layer, int64_t output, const SpikeLists& lists,
                                              int64_t steps, bool prefetch, float* currents) {
  const Segments segments(layer.n_in, kMostRows);
  const float *rows = layer.rows + output * segments.rows, *bias = layer.bias + output;
  const int64_t groups = groups_of(steps);
  const uint16_t* ids = lists.ids;
  const int32_t* step = lists.steps;
  constexpr int64_t kWidth = V * Vec::lanes;
  const int64_t lines = ((segments.inputs + 1) * kWidth + kLine - 1) / kLine;
  const int64_t ahead = (lines + groups - 1) / groups;  // to fetch beside a group
  for (int64_t s = 0; s < segments.count; ++s) {
    const int64_t left = layer.n_in - s * segments.inputs, here = left < segments.inputs ? left : segments.inputs;
    const float* const following = rows + (here + 1) * kWidth;  // perhaps those of the next outputs
    const float* next = following;
    for (int64_t g = 0; g < groups; ++g) {
      if (prefetch) {
#pragma GCC unroll 8
        for (int64_t i = 0; i < ahead; ++i) __builtin_prefetch(next + i * kLine, 0, 2);
        next += ahead * kLine;
      }
      const int64_t length = lists.lengths[s * groups + g], n = group_lists(steps, g * kSteps);
      const bool first = s == 0, last = s == segments.count - 1;
      if (n == kSteps) {
        group_currents<V, kSteps, W>(rows, bias, ids, length, step, currents, first, last);
      } else {
        group_currents<V, kSteps / 2, W>(rows, bias, ids, length, step, currents, first, last);
      }
      ids += n * length;
      step += kSteps;
    }
    rows = following;
  }
}

// Calls f(vectors, first output, its place in the panel) for every row, of `Most` vectors, of a panel; the vectors as a
// compile-time constant.
template <int Most, class F>
SNNFAST_INLINE void with_rows(const LayerView& layer, int64_t panel, F&& f) {
  const int64_t vectors = panel_vectors(layer, panel);
  for (int64_t v = 0; v < vectors; v += Most) {
    with_vectors(vectors - v < Most ? vectors - v : Most, [&](auto n) {
      if constexpr (decltype(n)::value <= Most) f(n, panel * kPanel + v * Vec::lanes, v * Vec::lanes);
    });
  }
}

// The same of a whole panel.
inline void panel_event_currents(const LayerView& layer, int64_t panel, const SpikeLists& lists, int64_t steps,
                                 bool prefetch, float* currents) {
  if constexpr (Vec::lanes == 16) {  // four floats load in half the time, and few outputs are what a last layer has
    if (layer.n_out <= Quad::lanes) return event_currents<1, Quad>(layer, 0, lists, steps, prefetch, currents);
  }
  with_rows<kRowVectors>(layer, panel, [&](auto vectors, int64_t output, int64_t at) {
    event_currents<decltype(vectors)::value, Vec>(layer, output, lists, steps, prefetch, currents + at);
  });
}

}  // namespace
}  // namespace snnfast
