// SPDX-License-Identifier: Apache-2.0
// The spikes of a layer under a constant current, from the table of trains: the neurons' trains, turned from one after
// the other to one step after the other.
#pragma once

#include "cpu/simd.h"
#include "cpu/spike_trains.h"
#include "cpu/table_lookup.h"

namespace snnfast {
namespace {

// Of one sample: where its currents' trains are. Each of the steps below is done for a few samples before the next one
// begins: what a sample's step waits for, the memory above all, others hide.
struct TrainPlaces {
  static constexpr int n = static_cast<int>(kTrainNeurons);
  alignas(64) uint32_t currents[n];     // bits of floats, which are in order as those of numbers from 0 on
  alignas(64) uint16_t buckets[2 * n];  // every other one
  alignas(64) uint32_t at[n];
};

SNNFAST_INLINE void find_buckets(const TrainsView& trains, const float* currents, TrainPlaces& places) {
  const Vec zero = broadcast(0.0f), one = broadcast(1.0f), first = broadcast(trains.first);
  const Vec scale = broadcast(trains.scale), last_bucket = broadcast(trains.last_bucket);
  const Vec whole_numbers = broadcast(0x1p23f);  // behind this sum the low bits of a float are the number
#pragma GCC unroll 4
  for (int v = 0; v < TrainPlaces::n; v += Vec::lanes) {
    const Vec positive = larger(load(currents + v), zero);  // not a number: 0, and as silent
    store(reinterpret_cast<float*>(places.currents) + v, positive);
    store(reinterpret_cast<float*>(places.buckets) + v,
          train_bucket(positive, first, scale, last_bucket, zero, one) + whole_numbers);
  }
}

SNNFAST_INLINE void find_trains(const TrainsView& trains, TrainPlaces& places) {
  uint32_t any = 0;
#pragma GCC unroll 16
  for (int j = 0; j < TrainPlaces::n; ++j) {
    const uint32_t start = trains.starts[places.buckets[2 * j]];
    any |= start;
    // One further, where the current reaches the next train; without a branch, which would be hard to predict.
    const uint32_t i = start & (kCrowded - 1);
    places.at[j] = i + (places.currents[j] >= trains.next[i]);
  }
  if (any & kCrowded) {
    for (int j = 0; j < TrainPlaces::n; ++j) {
      while (places.currents[j] >= trains.next[places.at[j]]) ++places.at[j];
    }
  }
}

// From the trains of `samples` samples to a word of 16 bits per step, rows of kTrainSteps. Slots: to where the next
// layer's table, of more than a few outputs, has the entry of that word.
using TurnTrains = void (*)(const Train* trains, const TrainPlaces* places, int64_t samples, bool slots,
                            uint16_t* words);

#if defined(__SSE2__)

// Words of steps, of eight or, where vectors are longer, of eight from each half of the steps.
using EightWords = uint16_t __attribute__((vector_size(16)));
SNNFAST_INLINE EightWords low_words(EightWords a, EightWords b) {  // a and b side by side, word by word
  return reinterpret_cast<EightWords>(_mm_unpacklo_epi16(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
}
SNNFAST_INLINE EightWords high_words(EightWords a, EightWords b) {
  return reinterpret_cast<EightWords>(_mm_unpackhi_epi16(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
}
#if defined(__AVX2__)
using TwiceEightWords = uint16_t __attribute__((vector_size(32)));
SNNFAST_INLINE TwiceEightWords low_words(TwiceEightWords a, TwiceEightWords b) {
  return reinterpret_cast<TwiceEightWords>(
      _mm256_unpacklo_epi16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
}
SNNFAST_INLINE TwiceEightWords high_words(TwiceEightWords a, TwiceEightWords b) {
  return reinterpret_cast<TwiceEightWords>(
      _mm256_unpackhi_epi16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
}
#endif

// Row j has trains j and j + 8, a byte of one and the same byte of the other as a word. After this, row i has the words
// of steps 8 i to 8 i + 7.
template <class Words>
SNNFAST_INLINE void turn_rows(Words (&row)[8], bool slots) {
  // Bit i of row j's bytes and bit j of row i's change places, blocks of 4 by 4, 2 by 2 and 1 by 1 after each other.
#pragma GCC unroll 3
  for (int k = 4; k >= 1; k /= 2) {
    const auto mask = static_cast<uint16_t>(k == 4 ? 0x0F0F : k == 2 ? 0x3333 : 0x5555);
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      if (j & k) continue;
      const Words moved = (row[j] >> k ^ row[j + k]) & mask;
      row[j + k] ^= moved;
      row[j] ^= moved << k;
    }
  }
  // Now row i has the words of steps i, i + 8, ...: each pass puts the words of rows i and i + 4 side by side.
#pragma GCC unroll 3
  for (int pass = 0; pass < 3; ++pass) {
    Words turned[8];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      turned[2 * i] = low_words(row[i], row[i + 4]);
      turned[2 * i + 1] = high_words(row[i], row[i + 4]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) row[i] = turned[i];
  }
  if (!slots) return;
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) turn_to_slots(row[i]);
}

inline void turn_trains(const Train* trains, const TrainPlaces* places, int64_t samples, bool slots, uint16_t* words) {
  constexpr int N = TrainPlaces::n / 2;
  for (int64_t s = 0; s < samples; ++s, words += kTrainSteps) {
    const uint32_t* const at = places[s].at;
    EightWords low[N], high[N];
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) {
      const __m128i a = _mm_loadu_si128(reinterpret_cast<const __m128i*>(trains + at[j]));
      const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(trains + at[j + N]));
      low[j] = reinterpret_cast<EightWords>(_mm_unpacklo_epi8(a, b));
      high[j] = reinterpret_cast<EightWords>(_mm_unpackhi_epi8(a, b));
    }
    const auto keep = [words](int64_t t, __m128i of) { _mm_storeu_si128(reinterpret_cast<__m128i*>(words + t), of); };
#if defined(__AVX2__)
    TwiceEightWords row[N];
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) {
      row[j] = reinterpret_cast<TwiceEightWords>(
          _mm256_set_m128i(reinterpret_cast<__m128i>(high[j]), reinterpret_cast<__m128i>(low[j])));
    }
    turn_rows(row, slots);
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) {
      const auto both = reinterpret_cast<__m256i>(row[i]);
      keep(8 * i, _mm256_castsi256_si128(both));
      keep(8 * i + kTrainSteps / 2, _mm256_extracti128_si256(both, 1));
    }
#else
    turn_rows(low, slots);
    turn_rows(high, slots);
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) {
      keep(8 * i, reinterpret_cast<__m128i>(low[i]));
      keep(8 * i + kTrainSteps / 2, reinterpret_cast<__m128i>(high[i]));
    }
#endif
  }
}

#endif

#if defined(__AVX512F__) && defined(__AVX512DQ__)

// Byte i of what turn_trains_by_bits permutes: of the eighth train from the last on, eight steps each, for Half of 16.
template <int Half>
struct TurnedBytes {
  uint8_t of[64] = {};
  constexpr TurnedBytes() {
    for (int i = 0; i < 64; ++i) of[i] = static_cast<uint8_t>((7 - i % 8) * 16 + Half * 8 + i / 8);
  }
};

// The same where a processor permutes bytes of two vectors (VBMI) and multiplies matrices of bits (GFNI): in a tenth of
// the time.
__attribute__((target("avx512vbmi,gfni"))) inline void turn_trains_by_bits(const Train* trains,
                                                                           const TrainPlaces* places, int64_t samples,
                                                                           bool slots, uint16_t* words) {
  alignas(64) static constexpr TurnedBytes<0> kLow;
  alignas(64) static constexpr TurnedBytes<1> kHigh;
  alignas(64) static constexpr int64_t kOrder[2][8] = {{0, 1, 8, 9, 2, 3, 10, 11}, {4, 5, 12, 13, 6, 7, 14, 15}};
  // The product with the unit vectors, one per byte, turns a matrix of eight by eight bits.
  const __m512i units = _mm512_set1_epi64(static_cast<int64_t>(0x8040201008040201u));
  for (int64_t s = 0; s < samples; ++s, words += kTrainSteps) {
    const uint32_t* const at = places[s].at;
    const auto row = [trains, at](int j) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(trains + at[j])); };
    __m512i four[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      four[i] = _mm512_maskz_broadcast_i32x4(0xFFFF, row(4 * i));
      four[i] = _mm512_mask_broadcast_i32x4(four[i], 0x00F0, row(4 * i + 1));
      four[i] = _mm512_mask_broadcast_i32x4(four[i], 0x0F00, row(4 * i + 2));
      four[i] = _mm512_mask_broadcast_i32x4(four[i], 0xF000, row(4 * i + 3));
    }
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const __m512i bytes = _mm512_load_si512(half ? kHigh.of : kLow.of);
      const __m512i low = _mm512_gf2p8affine_epi64_epi8(units, _mm512_permutex2var_epi8(four[0], bytes, four[1]), 0);
      const __m512i high = _mm512_gf2p8affine_epi64_epi8(units, _mm512_permutex2var_epi8(four[2], bytes, four[3]), 0);
      __m512i even = _mm512_unpacklo_epi8(low, high), odd = _mm512_unpackhi_epi8(low, high);
      if (slots) even = table_slots(even), odd = table_slots(odd);
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i) {
        const __m512i order = _mm512_load_si512(kOrder[i]);
        _mm512_storeu_si512(words + 64 * half + 32 * i, _mm512_permutex2var_epi64(even, order, odd));
      }
    }
  }
}

inline TurnTrains quickest_turn_trains(bool bits) { return bits ? turn_trains_by_bits : turn_trains; }

#elif defined(__SSE2__)
inline TurnTrains quickest_turn_trains(bool) { return turn_trains; }
#else
inline TurnTrains quickest_turn_trains(bool) { return nullptr; }  // Plan has no trains there
#endif

}  // namespace
}  // namespace snnfast
