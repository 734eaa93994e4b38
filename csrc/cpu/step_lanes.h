// SPDX-License-Identifier: Apache-2.0
// Canonical currents of a few neurons, with a time step in every lane: each input's weight, ascending, is added in the
// steps in which the input spiked, which takes a bit per step. Nothing is listed, and one load of bits serves several
// neurons; so for few neurons this is cheaper than adding rows of weights, spike by spike.
#pragma once

#include "core/neuron.h"
#include "cpu/event_currents.h"
#include "cpu/kernels.h"
#include "cpu/panels.h"
#include "cpu/simd.h"

namespace snnfast {
namespace {

constexpr int64_t kWordSteps = 64;  // whose spikes of one input are a word
constexpr int kLaneNeurons = 4;     // that are summed side by side

constexpr bool kHasStepLanes = Vec::lanes == kStepLanes;

inline int64_t step_words(int64_t steps) { return (steps + kWordSteps - 1) / kWordSteps; }
inline int64_t whole_words(int64_t n) { return (n + 63) / 64 * 64; }

// Spikes turned around.
struct TurnedSpikes {
  uint64_t* words;   // of input k in steps 64 i .. 64 i + 63 at [i * whole_words(inputs) + k]
  uint16_t* firing;  // inputs that spike at all, ascending
  int64_t count;     // of those
};

template <class Arena>
TurnedSpikes take_turned(Arena& arena, int64_t inputs, int64_t steps) {
  TurnedSpikes turned{};
  turned.words = arena.template take<uint64_t>(step_words(steps) * whole_words(inputs));
  turned.firing = arena.template take<uint16_t>(inputs + 1);
  return turned;
}

#if defined(__AVX512BW__)

// 64 inputs in up to 64 steps, `apart` bytes from each other.
inline void turn_words(const char* rows, int64_t apart, int64_t steps, uint64_t* turned) {
  const __m512i offsets =
      _mm512_maskz_mullo_epi64(255, _mm512_set1_epi64(apart), _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7));
  // Bytes of two steps side by side, then those of eight: 64 bits are a byte's place, in eight steps.
  const __m512i pairs =
      _mm512_maskz_broadcast_i32x4(0xFFFF, _mm_setr_epi8(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15));
  alignas(64) static constexpr uint16_t kPlaces[32] = {0, 8,  16, 24, 1, 9,  17, 25, 2, 10, 18, 26, 3, 11, 19, 27,
                                                       4, 12, 20, 28, 5, 13, 21, 29, 6, 14, 22, 30, 7, 15, 23, 31};
  const __m512i places = _mm512_load_si512(kPlaces);
  __m512i z[8];
#pragma GCC unroll 8
  for (int r = 0; r < 8; ++r) {
    const int64_t left = steps - 8 * r;
    const auto there = static_cast<__mmask8>(left >= 8 ? 255 : left > 0 ? (1 << left) - 1 : 0);
    const __m512i eight = _mm512_mask_i64gather_epi64(_mm512_setzero_si512(), there, offsets, rows + 8 * r * apart, 1);
    z[r] = _mm512_maskz_permutexvar_epi16(~0u, places, _mm512_maskz_shuffle_epi8(~uint64_t{0}, eight, pairs));
  }
  // Eight numbers of 64 bits in eight vectors, turned around.
  __m512i y[8];
#pragma GCC unroll 2
  for (int odd = 0; odd < 2; ++odd) {
    __m512i two[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      two[i] = odd ? _mm512_maskz_unpackhi_epi64(255, z[2 * i], z[2 * i + 1])
                   : _mm512_maskz_unpacklo_epi64(255, z[2 * i], z[2 * i + 1]);
    }
    const __m512i a = _mm512_maskz_shuffle_i64x2(255, two[0], two[1], 0x44);
    const __m512i b = _mm512_maskz_shuffle_i64x2(255, two[2], two[3], 0x44);
    const __m512i c = _mm512_maskz_shuffle_i64x2(255, two[0], two[1], 0xEE);
    const __m512i d = _mm512_maskz_shuffle_i64x2(255, two[2], two[3], 0xEE);
    y[odd] = _mm512_maskz_shuffle_i64x2(255, a, b, 0x88);
    y[2 + odd] = _mm512_maskz_shuffle_i64x2(255, a, b, 0xDD);
    y[4 + odd] = _mm512_maskz_shuffle_i64x2(255, c, d, 0x88);
    y[6 + odd] = _mm512_maskz_shuffle_i64x2(255, c, d, 0xDD);
  }
#pragma GCC unroll 8
  for (int b = 0; b < 8; ++b) {
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      turned[8 * b + i] = _mm512_test_epi8_mask(y[b], _mm512_set1_epi8(static_cast<char>(1 << i)));
    }
  }
}

SNNFAST_INLINE Vec add_in_steps(Vec sum, const uint64_t* steps, int place, Vec weight) {
  const __mmask16 spiked = _load_mask16(reinterpret_cast<__mmask16*>(const_cast<uint64_t*>(steps)) + place);
  return {_mm512_mask_add_ps(sum.v, spiked, sum.v, weight.v)};
}

#else

inline void turn_words(const char* rows, int64_t apart, int64_t steps, uint64_t* turned) {
  __builtin_memset(turned, 0, 64 * sizeof(uint64_t));
  for (int64_t t = 0; t < steps; ++t) {
    uint64_t word;
    __builtin_memcpy(&word, rows + t * apart, sizeof word);
    for (; word; word &= word - 1) turned[__builtin_ctzll(word)] |= uint64_t{1} << t;
  }
}

SNNFAST_INLINE Vec add_in_steps(Vec sum, const uint64_t* steps, int place, Vec weight) {
  float to_add[Vec::lanes], weights[Vec::lanes];
  store(weights, weight);
  for (int i = 0; i < Vec::lanes; ++i) to_add[i] = *steps >> (place * Vec::lanes + i) & 1u ? weights[i] : 0.0f;
  return sum + load(to_add);
}

#endif

// The words of rows of spike bits, one per step.
inline void turn_rows(const PanelBits* bits, int64_t stride, int64_t inputs, int64_t steps, uint64_t* turned) {
  const int64_t apart = stride * kPanelBytes, words = whole_words(inputs) / 64;
  for (int64_t first = 0; first < steps; first += kWordSteps) {
    const char* const rows = reinterpret_cast<const char*>(bits) + first * apart;
    const int64_t left = steps - first < kWordSteps ? steps - first : kWordSteps;
    for (int64_t w = 0; w < words; ++w) turn_words(rows + 8 * w, apart, left, turned + first * words + w * 64);
  }
}

// Which inputs have words that are not zero.
inline void find_firing(int64_t inputs, int64_t steps, TurnedSpikes& turned) {
  turned.count = 0;
  for (int64_t k = 0; k < inputs; ++k) {
    uint64_t any = 0;
    for (int64_t i = 0; i < step_words(steps); ++i) any |= turned.words[i * whole_words(inputs) + k];
    turned.firing[turned.count] = static_cast<uint16_t>(k);
    turned.count += any != 0;
  }
}

inline void turn_spikes(const PanelBits* bits, int64_t stride, int64_t inputs, int64_t steps, TurnedSpikes& turned) {
  turn_rows(bits, stride, inputs, steps, turned.words);
  find_firing(inputs, steps, turned);
}

// Sums for N neurons in up to V vectors of steps of one word: neuron i's at sums + i * apart.
template <int N, int V>
void sum_in_steps(const float* const* weights, const uint64_t* words, const TurnedSpikes& turned, float* sums,
                  int64_t apart) {
  Vec h[N][V];
#pragma GCC unroll 4
  for (int i = 0; i < N; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) h[i][v] = broadcast(0.0f);
  }
  const uint16_t *const firing = turned.firing, *const end = firing + turned.count;
  for (const uint16_t* f = firing; f < end; ++f) {
    const int64_t k = *f;
#pragma GCC unroll 4
    for (int i = 0; i < N; ++i) {
      const Vec weight = broadcast(weights[i][k]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) h[i][v] = add_in_steps(h[i][v], words + k, v, weight);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < N; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store(sums + i * apart + v * Vec::lanes, h[i][v]);
  }
}

// Up to kLaneNeurons neurons whose weights (inputs) these are: their sums without the bias, neuron i's of step t at
// sums[i * apart + t]. Steps are rounded up to whole words.
__attribute__((noinline)) void sums_in_steps(const float* const* weights, int64_t neurons, const TurnedSpikes& turned,
                                             int64_t inputs, int64_t steps, float* sums, int64_t apart) {
  constexpr int kVectors = static_cast<int>(kWordSteps) / Vec::lanes;
  const float* of[kLaneNeurons];
  for (int64_t i = 0; i < kLaneNeurons; ++i) of[i] = weights[i < neurons ? i : 0];
  const uint64_t* words = turned.words;
  for (int64_t first = 0; first < steps; first += kWordSteps, words += whole_words(inputs)) {
    if constexpr (kVectors == 4) {
      with_vectors((steps - first + Vec::lanes - 1) / Vec::lanes, [&](auto vectors) {
        constexpr int V = decltype(vectors)::value;
        if (neurons == 1) return sum_in_steps<1, V>(of, words, turned, sums + first, apart);
        if (neurons == 2) return sum_in_steps<2, V>(of, words, turned, sums + first, apart);
        sum_in_steps<kLaneNeurons, V>(of, words, turned, sums + first, apart);
      });
    } else {
      for (int64_t i = 0; i < neurons; ++i) {
        sum_in_steps<1, kVectors>(of + i, words, turned, sums + i * apart + first, apart);
      }
    }
  }
}

// Clock cycles of a sample, at most: a bit takes a load and a mask, which some neurons share; to turn 64 inputs in 64
// steps took 200. To list a spike and add its row of one vector takes four, with all that lists take.
constexpr int64_t kClocksPerListedSpike = 4;
inline int64_t step_lanes_clocks(int64_t inputs, int64_t neurons, int64_t steps) {
  const int64_t vectors = (steps + Vec::lanes - 1) / Vec::lanes, groups = (neurons + kLaneNeurons - 1) / kLaneNeurons;
  return inputs * vectors * groups * (kLaneNeurons + 1) / 2 + 200 * step_words(steps) * (whole_words(inputs) / 64);
}

// A last layer that only accumulates, whose weights are there by output, over a tile of steps; adds its potentials to
// `total`, if that is not null.
inline void accumulate_in_steps(const LayerView& layer, const TurnedSpikes& turned, int64_t steps, float* mem,
                                float* total) {
  using Rule = NeuronRule<false, Reset::none, false, false>;
  constexpr NeuronConstants<float> kUnused{0.0f, 1.0f, 0.0f};  // it has no factors, and never fires
  alignas(64) float sums[kLaneNeurons][kMostSteps];
  for (int64_t begin = 0; begin < layer.n_out; begin += kLaneNeurons) {
    const int64_t left = layer.n_out - begin, neurons = left < kLaneNeurons ? left : kLaneNeurons;
    const float* weights[kLaneNeurons];
    for (int64_t i = 0; i < neurons; ++i) weights[i] = layer.by_output + (begin + i) * layer.n_in;
    sums_in_steps(weights, neurons, turned, layer.n_in, steps, sums[0], kMostSteps);
    float m[kLaneNeurons], all[kLaneNeurons], bias[kLaneNeurons];
    for (int64_t i = 0; i < kLaneNeurons; ++i) {
      const int64_t j = begin + (i < neurons ? i : 0);
      m[i] = mem[j];
      all[i] = total ? total[j] : 0.0f;
      bias[i] = layer.bias[j];
    }
    for (int64_t t = 0; t < steps; ++t) {
#pragma GCC unroll 4
      for (int64_t i = 0; i < kLaneNeurons; ++i) {
        float none = 0.0f;
        Rule::step<float>(m[i], none, sums[i][t] + bias[i], kUnused);
        all[i] = all[i] + m[i];
      }
    }
    for (int64_t i = 0; i < neurons; ++i) {
      mem[begin + i] = m[i];
      if (total) total[begin + i] = all[i];
    }
  }
}

}  // namespace
}  // namespace snnfast
