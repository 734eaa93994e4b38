// SPDX-License-Identifier: Apache-2.0
// A last layer that only accumulates, from how often each of its inputs spiked instead of spike by spike: its final
// potential is the counts' product with the weights, and T times the bias. In the mean of its potentials a spike of the
// first step counts T times, one of the last step once. The sums are not the canonical ones: for the fast contract.
#pragma once

#include "cpu/event_currents.h"
#include "cpu/kernels.h"
#include "cpu/panels.h"
#include "cpu/segments.h"
#include "cpu/simd.h"

namespace snnfast {
namespace {

// 64 counts of a byte each.
#if defined(__AVX512BW__)
struct ByteCounts {
  __m512i n;
};
SNNFAST_INLINE ByteCounts no_counts() { return {_mm512_setzero_si512()}; }
SNNFAST_INLINE ByteCounts count_bits(ByteCounts c, uint64_t word) {
  return {_mm512_mask_add_epi8(c.n, word, c.n, _mm512_set1_epi8(1))};
}
SNNFAST_INLINE ByteCounts operator+(ByteCounts a, ByteCounts b) { return {_mm512_add_epi8(a.n, b.n)}; }
#elif defined(__AVX2__)
struct ByteCounts {
  __m256i n[2];
};
SNNFAST_INLINE ByteCounts no_counts() { return {{_mm256_setzero_si256(), _mm256_setzero_si256()}}; }
SNNFAST_INLINE __m256i count_half(__m256i c, uint32_t word) {
  const __m256i byte_of = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
  const __m256i bit_of = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201));
  const __m256i bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int32_t>(word)), byte_of);
  return _mm256_sub_epi8(c, _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit_of), bit_of));  // less -1 where it is set
}
SNNFAST_INLINE ByteCounts count_bits(ByteCounts c, uint64_t word) {
  return {{count_half(c.n[0], static_cast<uint32_t>(word)), count_half(c.n[1], static_cast<uint32_t>(word >> 32))}};
}
SNNFAST_INLINE ByteCounts operator+(ByteCounts a, ByteCounts b) {
  return {{_mm256_add_epi8(a.n[0], b.n[0]), _mm256_add_epi8(a.n[1], b.n[1])}};
}
#else
struct ByteCounts {
  uint64_t n[8];  // a byte's bits, the lowest in the lowest byte
};
SNNFAST_INLINE ByteCounts no_counts() { return {}; }
SNNFAST_INLINE ByteCounts count_bits(ByteCounts c, uint64_t word) {
  for (int i = 0; i < 8; ++i) {
    const uint64_t byte = word >> (8 * i) & 255u;
    // Each bit in its own byte, where it then carries into the highest one, which is brought down.
    const uint64_t apart = (byte * 0x0101010101010101u) & 0x8040201008040201u;
    c.n[i] += ((apart + 0x00406070787C7E7Fu) >> 7) & 0x0101010101010101u;
  }
  return c;
}
SNNFAST_INLINE ByteCounts operator+(ByteCounts a, ByteCounts b) {
  for (int i = 0; i < 8; ++i) a.n[i] += b.n[i];
  return a;
}
#endif

// Adds to `counts`, (inputs in whole words), what the spikes of a tile of steps count, after which `left` are left.
template <bool Mean>
void count_tile(const PanelBits* bits, int64_t stride, int64_t inputs, int64_t steps, int64_t left, float* counts) {
  constexpr int64_t kTogether = Mean ? 16 : 128;  // steps whose counts, or sums of counts (136), fit a byte
  for (int64_t w = 0; w * 64 < inputs; ++w) {
    for (int64_t begin = 0; begin < steps; begin += kTogether) {
      const int64_t end = begin + kTogether < steps ? begin + kTogether : steps;
      ByteCounts often = no_counts(), summed = no_counts();
      for (int64_t t = begin; t < end; ++t) {
        often = count_bits(often, row_word(bits + t * stride, w));
        if constexpr (Mean) summed = summed + often;
      }
      uint8_t count[64], sum[64];
      __builtin_memcpy(count, &often, sizeof count);
      __builtin_memcpy(sum, &summed, sizeof sum);
      const Vec each = broadcast(Mean ? static_cast<float>(left + steps - end) : 1.0f);
      for (int j = 0; j < 64; j += Vec::lanes) {
        float* const to = counts + w * 64 + j;
        const Vec more = Mean ? bytes_to_float(count + j) * each + bytes_to_float(sum + j) : bytes_to_float(count + j);
        store(to, load(to) + more);
      }
    }
  }
}

inline void count_tile(const PanelBits* bits, int64_t stride, int64_t inputs, int64_t steps, int64_t left, bool mean,
                       float* counts) {
  mean ? count_tile<true>(bits, stride, inputs, steps, left, counts)
       : count_tile<false>(bits, stride, inputs, steps, left, counts);
}

// The layer's output after `steps` steps, (n_out).
inline void weigh_counts(const LayerView& layer, const float* counts, int64_t steps, bool mean, float* output) {
  constexpr int64_t kPartialSums = 4;  // that hide each other's latency
  constexpr int L = Vec::lanes;
  const Segments segments(layer.n_in, kMostRows);
  const auto t = static_cast<float>(steps);
  const float biases = mean ? 0.5f * (t + 1.0f) : t;
  for (int64_t begin = 0; begin < layer.padded; begin += kRow) {
    const int64_t width = layer.padded - begin < kRow ? layer.padded - begin : kRow;
    for (int64_t at = 0; at < width && begin + at < layer.n_out; at += L) {
      const float* weights = layer.rows + begin * segments.rows + at;
      Vec sum[kPartialSums];
      for (Vec& s : sum) s = broadcast(0.0f);
      for (int64_t first = 0; first < layer.n_in; first += segments.inputs) {
        const int64_t left = layer.n_in - first, inputs = left < segments.inputs ? left : segments.inputs;
        weights += width;  // a row of zeros
        for (int64_t k = 0; k < inputs; k += kPartialSums) {
#pragma GCC unroll 4
          for (int64_t c = 0; c < kPartialSums; ++c) {
            if (k + c == inputs) break;
            sum[c] = multiply_add(broadcast(counts[first + k + c]), load(weights + (k + c) * width), sum[c]);
          }
        }
        weights += inputs * width;
      }
      Vec all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
      if (mean) all = all * broadcast(1.0f / t);
      float out[L];
      store(out, multiply_add(broadcast(biases), load(layer.bias + begin + at), all));
      const int64_t left = layer.n_out - begin - at;
      __builtin_memcpy(output + begin + at, out, static_cast<size_t>(left < L ? left : L) * sizeof(float));
    }
  }
}

}  // namespace
}  // namespace snnfast
