// SPDX-License-Identifier: Apache-2.0
// From spikes as bits to a list of the neurons that spiked. Without branches on the bits: how many are set is hard to
// predict, and a wrong guess costs more than a few stores.
#pragma once

#include "cpu/simd.h"

namespace snnfast {
namespace {

// Ids that are written before it is looked at how many there are; a list has room for as many after its end.
constexpr int64_t kAtOnce = 16;

#if defined(__AVX512F__) && defined(__AVX512DQ__)

// Writes the ids of the bits set in a word, ascending, the lowest bit's being `first`; returns how many.
SNNFAST_INLINE int64_t write_ids(uint64_t word, uint32_t first, uint32_t* ids) {
  uint32_t* to = ids;
  __m512i lanes = _mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(first)),
                                   _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
#pragma GCC unroll 4
  for (int part = 0; part < 4; ++part) {
    const auto mask = static_cast<__mmask16>(word >> (16 * part));
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(mask, lanes));
    to += __builtin_popcount(mask);
    lanes = _mm512_add_epi32(lanes, _mm512_set1_epi32(16));
  }
  return to - ids;
}

#elif defined(__AVX2__)

// The places of the bits set in a byte, ascending, a byte each.
struct BytePlaces {
  uint64_t of[256] = {};
  constexpr BytePlaces() {
    for (uint32_t byte = 0; byte < 256; ++byte) {
      uint32_t n = 0;
      for (uint64_t place = 0; place < 8; ++place) {
        if (byte >> place & 1u) of[byte] |= place << (8 * n++);
      }
    }
  }
};
alignas(64) constexpr BytePlaces kBytePlaces;

SNNFAST_INLINE int64_t write_ids(uint64_t word, uint32_t first, uint32_t* ids) {
  uint32_t* to = ids;
#pragma GCC unroll 8
  for (int part = 0; part < 8; ++part) {
    const uint64_t byte = word >> (8 * part) & 255u;
    const __m128i places = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(kBytePlaces.of + byte));
    const __m256i base = _mm256_set1_epi32(static_cast<int>(first) + 8 * part);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_add_epi32(base, _mm256_cvtepu8_epi32(places)));
    to += __builtin_popcountll(byte);
  }
  return to - ids;
}

#else

SNNFAST_INLINE int64_t write_ids(uint64_t word, uint32_t first, uint32_t* ids) {
  constexpr int64_t kStep = 8;
  const int64_t count = __builtin_popcountll(word);
  for (int64_t done = 0; done < count; done += kStep) {
#pragma GCC unroll 8
    for (int64_t i = 0; i < kStep; ++i) {
      ids[done + i] = first + static_cast<uint32_t>(__builtin_ctzll(word | uint64_t{1} << 63));
      word &= word - 1;
    }
  }
  return count;
}

#endif

}  // namespace
}  // namespace snnfast
