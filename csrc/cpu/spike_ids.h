// SPDX-License-Identifier: Apache-2.0
// From spikes as bits to a list of the neurons that spiked. Without branches on the bits: how many are set is hard to
// predict, and a wrong guess costs more than a few stores.
#pragma once

#include "cpu/simd.h"

namespace snnfast {
namespace {

// What follows a list may be written over by so many ids: they are written before it is looked at how many there are.
constexpr int64_t kAtOnce = 32;

#if defined(__AVX2__)

// The places of the bits set in a byte, ascending.
struct BytePlaces {
  uint8_t of[256][8] = {};
  constexpr BytePlaces() {
    for (uint32_t byte = 0; byte < 256; ++byte) {
      uint32_t n = 0;
      for (uint8_t place = 0; place < 8; ++place) {
        if (byte >> place & 1u) of[byte][n++] = place;
      }
    }
  }
};
alignas(64) constexpr BytePlaces kBytePlaces;

// Ids of 16 bits: base + places. Those of 32 may begin beyond 16 bits.
SNNFAST_INLINE void store_ids(uint32_t* to, __m128i places, uint32_t first) {
  const __m256i ids = _mm256_add_epi32(_mm256_set1_epi32(static_cast<int>(first)), _mm256_cvtepu8_epi32(places));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), ids);
}
SNNFAST_INLINE void store_ids(uint16_t* to, __m128i places, uint32_t first) {
  const __m128i ids = _mm_add_epi16(_mm_set1_epi16(static_cast<int16_t>(first)), _mm_cvtepu8_epi16(places));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), ids);
}

// Writes the ids of the bits set in a word, ascending, the lowest bit's being `first`; returns how many.
template <class Id>
SNNFAST_INLINE int64_t write_ids(uint64_t word, uint32_t first, Id* ids) {
  Id* to = ids;
#pragma GCC unroll 8
  for (uint32_t part = 0; part < 8; ++part) {
    const uint64_t byte = word >> (8 * part) & 255u;
    const __m128i places = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(kBytePlaces.of[byte]));
    store_ids(to, places, first + 8 * part);
    to += __builtin_popcountll(byte);
  }
  return to - ids;
}

// The same of a word with few bits set, one after the other.
constexpr int64_t kFewBits = 4;
SNNFAST_INLINE int64_t write_few_ids(uint64_t word, uint32_t first, uint16_t* ids) {
  const int64_t count = __builtin_popcountll(word);
  int64_t done = 0;
  do {  // once, mostly
#pragma GCC unroll 4
    for (int64_t i = 0; i < kFewBits; ++i) {
      ids[done + i] = static_cast<uint16_t>(first + static_cast<uint32_t>(_tzcnt_u64(word)));
      word &= word - 1;
    }
    done += kFewBits;
  } while (__builtin_expect(done < count, 0));
  return count;
}

#else

template <class Id>
SNNFAST_INLINE int64_t write_ids(uint64_t word, uint32_t first, Id* ids) {
  constexpr int64_t kStep = 8;
  const int64_t count = __builtin_popcountll(word);
  for (int64_t done = 0; done < count; done += kStep) {
#pragma GCC unroll 8
    for (int64_t i = 0; i < kStep; ++i) {
      ids[done + i] = static_cast<Id>(first + static_cast<uint32_t>(__builtin_ctzll(word | uint64_t{1} << 63)));
      word &= word - 1;
    }
  }
  return count;
}

#endif

#if defined(__AVX512F__) && defined(__AVX512DQ__)

// The same for ids of 32 bits; where they have 16, packing them once more takes longer than the table.
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

#endif

SNNFAST_INLINE uint64_t row_word(const void* row, int64_t w) {
  uint64_t word;
  __builtin_memcpy(&word, static_cast<const char*>(row) + w * 8, sizeof word);
  return word;
}

// Ids of the bits set in words begin .. end - 1 of a row of spikes, of the last of them only those in `last_bits`. The
// first bit's id is 1: there are few enough words for 16 bits, and 0 is for others to use.
using WriteRow = int64_t (*)(const void* row, int64_t begin, int64_t end, uint64_t last_bits, uint16_t* ids);

__attribute__((noinline)) int64_t write_row(const void* row, int64_t begin, int64_t end, uint64_t last_bits,
                                            uint16_t* ids) {
  const auto write = [&](auto write_word) {
    int64_t n = 0;
    for (int64_t w = begin; w < end; ++w) {
      const uint64_t word = row_word(row, w);
      n += write_word(w == end - 1 ? word & last_bits : word, static_cast<uint32_t>((w - begin) * 64 + 1), ids + n);
    }
    return n;
  };
#if defined(__AVX2__)
  // A row of few spikes takes half the time so. Which way it is, is easy to predict: a layer's rows are much alike.
  int64_t count = __builtin_popcountll(row_word(row, end - 1) & last_bits);
  for (int64_t w = begin; w < end - 1; ++w) count += __builtin_popcountll(row_word(row, w));
  if (count <= kFewBits * (end - begin)) return write([](auto... of) { return write_few_ids(of...); });
#endif
  return write([](auto... of) { return write_ids(of...); });
}

// The same of rows of so many words, each to a list of its own, `apart` from the last one; `counts`: how many ids.
using WriteRows = void (*)(const uint64_t* rows, int64_t width, int64_t count, uint16_t* lists, int64_t apart,
                           int64_t* counts);

inline void write_rows(const uint64_t* rows, int64_t width, int64_t count, uint16_t* lists, int64_t apart,
                       int64_t* counts) {
  for (int64_t i = 0; i < count; ++i) {
    counts[i] = write_row(rows + i * width, 0, width, ~uint64_t{0}, lists + i * apart);
  }
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

// The same in a third of the time, at usual rates, where a processor packs bytes (VBMI2).
__attribute__((target("avx512vbmi2"))) inline int64_t write_row_by_bytes(const void* row, int64_t begin, int64_t end,
                                                                         uint64_t last_bits, uint16_t* ids) {
  alignas(64) static constexpr BytesUpTo<64> kPlaces;
  const __m512i places = _mm512_load_si512(kPlaces.of);
  int64_t n = 0;
  for (int64_t w = begin; w < end; ++w) {
    const uint64_t word = w == end - 1 ? row_word(row, w) & last_bits : row_word(row, w);
    const __m512i first = _mm512_set1_epi16(static_cast<int16_t>((w - begin) * 64 + 1));
    const int64_t count = __builtin_popcountll(word);
    const __m512i packed = _mm512_maskz_compress_epi8(word, places);
    // Zeroing forms with nothing to zero, as in simd.h.
    const __m256i low = _mm512_maskz_extracti32x8_epi32(0xFF, packed, 0);
    _mm512_storeu_si512(ids + n, _mm512_add_epi16(first, _mm512_maskz_cvtepu8_epi16(~__mmask32{0}, low)));
    if (count > 32) {  // not at usual rates
      const __m256i high = _mm512_maskz_extracti32x8_epi32(0xFF, packed, 1);
      _mm512_storeu_si512(ids + n + 32, _mm512_add_epi16(first, _mm512_maskz_cvtepu8_epi16(~__mmask32{0}, high)));
    }
    n += count;
  }
  return n;
}
__attribute__((target("avx512vbmi2"))) inline void write_rows_by_bytes(const uint64_t* rows, int64_t width,
                                                                       int64_t count, uint16_t* lists, int64_t apart,
                                                                       int64_t* counts) {
  for (int64_t i = 0; i < count; ++i) {
    counts[i] = write_row_by_bytes(rows + i * width, 0, width, ~uint64_t{0}, lists + i * apart);
  }
}
inline WriteRow quickest_write_row(bool packs_bytes) { return packs_bytes ? write_row_by_bytes : write_row; }
inline WriteRows quickest_write_rows(bool packs_bytes) { return packs_bytes ? write_rows_by_bytes : write_rows; }

#else
inline WriteRow quickest_write_row(bool) { return write_row; }
inline WriteRows quickest_write_rows(bool) { return write_rows; }
#endif

}  // namespace
}  // namespace snnfast
