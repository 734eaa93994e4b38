// SPDX-License-Identifier: Apache-2.0
// From spikes as bits to a list of the neurons that spiked. Without branches on the bits: how many are set is hard to
// predict, and a wrong guess costs more than a few stores.
#pragma once

#include "cpu/simd.h"

namespace snnfast {
namespace {

// Ids that are written before it is looked at how many there are; a list has room for as many after its end.
constexpr int64_t kAtOnce = 16;

// kAtOnce times the same id.
SNNFAST_INLINE void fill_ids(uint32_t* ids, uint32_t id) {
  for (int64_t i = 0; i < kAtOnce; ++i) ids[i] = id;
}

#if defined(__AVX512F__) && defined(__AVX512DQ__)

// 0 .. N - 1.
template <int N>
struct BytesUpTo {
  uint8_t of[N] = {};
  constexpr BytesUpTo() {
    for (int i = 0; i < N; ++i) of[i] = static_cast<uint8_t>(i);
  }
};

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

// Ids of the bits set in words begin .. end - 1 of a row of spikes, of the last of them only those in `last_bits`.
using WriteRow = int64_t (*)(const void* row, int64_t begin, int64_t end, uint64_t last_bits, uint32_t* ids);

SNNFAST_INLINE uint64_t row_word(const void* row, int64_t w) {
  uint64_t word;
  __builtin_memcpy(&word, static_cast<const char*>(row) + w * 8, sizeof word);
  return word;
}

inline int64_t write_row(const void* row, int64_t begin, int64_t end, uint64_t last_bits, uint32_t* ids) {
  int64_t n = 0;
  for (int64_t w = begin; w < end; ++w) {
    const uint64_t word = row_word(row, w);
    n += write_ids(w == end - 1 ? word & last_bits : word, static_cast<uint32_t>(w * 64), ids + n);
  }
  return n;
}

#if defined(__AVX512F__) && defined(__AVX512DQ__)

// The same in less than a third of the time (21 clocks for a word become 6), where a processor packs bytes (VBMI2).
__attribute__((target("avx512vbmi2"))) inline int64_t write_row_by_bytes(const void* row, int64_t begin, int64_t end,
                                                                         uint64_t last_bits, uint32_t* ids) {
  alignas(64) static constexpr BytesUpTo<64> kPlaces;
  const __m512i places = _mm512_load_si512(kPlaces.of);
  int64_t n = 0;
  for (int64_t w = begin; w < end; ++w) {
    const uint64_t word = w == end - 1 ? row_word(row, w) & last_bits : row_word(row, w);
    const __m512i first = _mm512_set1_epi32(static_cast<int>(w * 64));
    const int64_t count = __builtin_popcountll(word);
    alignas(64) uint8_t packed[64];
    _mm512_store_si512(packed, _mm512_maskz_compress_epi8(word, places));
    for (int64_t i = 0; i == 0 || i < count; i += 16) {  // at usual rates once
      const __m128i bytes = _mm_load_si128(reinterpret_cast<const __m128i*>(packed + i));
      _mm512_storeu_si512(ids + n + i, _mm512_add_epi32(first, _mm512_maskz_cvtepu8_epi32(0xFFFF, bytes)));
    }
    n += count;
  }
  return n;
}
inline WriteRow quickest_write_row(bool packs_bytes) { return packs_bytes ? write_row_by_bytes : write_row; }

#else
inline WriteRow quickest_write_row(bool) { return write_row; }
#endif

}  // namespace
}  // namespace snnfast
