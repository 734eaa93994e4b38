// SPDX-License-Identifier: Apache-2.0
// One layer over a tile of time steps, for a block of samples, by products of whole matrices: spikes (bytes) times
// weights in slices of eight bits, sums of integers, then the neuron step.
//
// The integers are exact. What is rounded: weights that need more than 24 bits below their row's largest (when the
// slices are made), and the joining of the slices' sums. Where a row's weights lie on a grid, neither rounds anything,
// and the result is the canonical sum: see docs/numerics.md.
#pragma once

#include "cpu/panels.h"
#include "cpu/tiles.h"

namespace snnfast {
namespace {

struct SliceScan {
  const SliceView* slices;
  const uint8_t* bytes;  // (steps, input_tiles, kSliceRows, kSliceInputs), 1 where an input spiked
  int64_t count, steps;  // samples, at most kSliceRows
  int64_t n_out, padded;
  // Per sample: state of the layer (padded), sum of its membrane potentials or null, the bits of its spikes in the
  // first step, its potentials in the first step or null.
  float *mem[kSliceRows], *syn[kSliceRows], *total[kSliceRows];
  char* spike_bits[kSliceRows];
  float* potentials[kSliceRows];
  int64_t bits_stride;  // bytes from step to step
  int64_t potentials_stride;
};

// Two time steps' sums for one output tile. They are computed while the two steps before go through the neurons.
template <int S>
struct StepPair {
  alignas(64) int32_t sums[2][S][kSliceRows * kSliceOutputs];
};

template <class Rule, int S>
class SliceScanner {
  static constexpr int L = Vec::lanes, V = static_cast<int>(kSliceOutputs) / L;

 public:
  SliceScanner(const SliceScan& scan, const NeuronConstants<Vec>& constants)
      : a_(scan), constants_(constants), recorded_(scan.total[0] || scan.potentials[0]) {}

  void run(Tiles& tiles, int64_t output_tile) {
    start(output_tile);
    const int64_t pairs = (a_.steps + 1) / 2, inputs = a_.slices->input_tiles, items = a_.count;
    const int64_t at_once = (items + inputs - 1) / inputs;  // of the items between two input tiles
    const int8_t* digits = a_.slices->digits + output_tile * inputs * S * kSliceBytes;
    for (int64_t p = 0; p < pairs; ++p) {
      const uint8_t* first = a_.bytes + 2 * p * inputs * kSliceBytes;
      // An odd last step is computed twice.
      const uint8_t* second = 2 * p + 1 < a_.steps ? first + inputs * kSliceBytes : first;
      zero(tiles);
      for (int64_t k = 0; k < inputs; ++k) {
        multiply(tiles, first + k * kSliceBytes, second + k * kSliceBytes, digits + k * S * kSliceBytes);
        const int64_t from = k * at_once, to = from + at_once < items ? from + at_once : items;
        if (p > 0 && from < to) scan_items(p - 1, from, to);
      }
      store(tiles, pairs_[p % 2]);
    }
    scan_items(pairs - 1, 0, items);
    finish();
  }

 private:
  static void zero(Tiles& tiles) {
    tiles.template zero<0>();
    tiles.template zero<1>();
    tiles.template zero<2>();
    tiles.template zero<3>();
    if constexpr (S == 3) {
      tiles.template zero<4>();
      tiles.template zero<5>();
    }
  }

  SNNFAST_INLINE static void multiply(Tiles& tiles, const uint8_t* first, const uint8_t* second, const int8_t* digits) {
    tiles.template load<6>(first);
    tiles.template load<7>(digits);
    tiles.template multiply<0>();
    tiles.template load<7>(digits + kSliceBytes);
    tiles.template multiply<1>();
    if constexpr (S == 3) {
      tiles.template load<7>(digits + 2 * kSliceBytes);
      tiles.template multiply<2>();
    }
    tiles.template load<6>(second);
    tiles.template load<7>(digits);
    tiles.template multiply<S>();
    tiles.template load<7>(digits + kSliceBytes);
    tiles.template multiply<S + 1>();
    if constexpr (S == 3) {
      tiles.template load<7>(digits + 2 * kSliceBytes);
      tiles.template multiply<S + 2>();
    }
  }

  static void store(Tiles& tiles, StepPair<S>& to) {
    tiles.template store<0>(to.sums[0][0]);
    tiles.template store<1>(to.sums[0][1]);
    if constexpr (S == 3) tiles.template store<2>(to.sums[0][2]);
    tiles.template store<S>(to.sums[1][0]);
    tiles.template store<S + 1>(to.sums[1][1]);
    if constexpr (S == 3) tiles.template store<S + 2>(to.sums[1][2]);
  }

  void start(int64_t output_tile) {
    begin_ = output_tile * kSliceOutputs;
    width_ = a_.padded - begin_ < kSliceOutputs ? a_.padded - begin_ : kSliceOutputs;
    valid_ = a_.n_out - begin_ < kSliceOutputs ? a_.n_out - begin_ : kSliceOutputs;
    const size_t bytes = static_cast<size_t>(width_) * sizeof(float);
    __builtin_memset(mem_, 0, sizeof mem_);
    __builtin_memset(syn_, 0, sizeof syn_);
    for (int64_t i = 0; i < a_.count; ++i) {
      __builtin_memcpy(mem_[i], a_.mem[i] + begin_, bytes);
      __builtin_memcpy(syn_[i], a_.syn[i] + begin_, bytes);
    }
    for (int v = 0; v < V; ++v) {
      scale_[v] = load(a_.slices->scale + begin_ + v * L);
      bias_[v] = load(a_.slices->bias + begin_ + v * L);
    }
  }

  void finish() {
    const size_t bytes = static_cast<size_t>(width_) * sizeof(float);
    for (int64_t i = 0; i < a_.count; ++i) {
      __builtin_memcpy(a_.mem[i] + begin_, mem_[i], bytes);
      __builtin_memcpy(a_.syn[i] + begin_, syn_[i], bytes);
    }
  }

  void scan_items(int64_t pair, int64_t from, int64_t to) {
    recorded_ ? scan<true>(pair, from, to) : scan<false>(pair, from, to);
  }

  // Some samples through the two steps of a pair. A function by itself, and one that calls no other where nothing is
  // recorded: else the compiler keeps nothing in registers.
  template <bool Recorded>
  __attribute__((noinline)) void scan(int64_t pair, int64_t from, int64_t to) {
    const NeuronConstants<Vec> constants = constants_;
    Vec scale[V], bias[V];
    for (int v = 0; v < V; ++v) {
      scale[v] = scale_[v];
      bias[v] = bias_[v];
    }
    const int64_t first = 2 * pair, stride = a_.bits_stride, bits_at = first * stride + begin_ / 8;
    const bool both = first + 1 < a_.steps;
    char* const* const spike_bits = a_.spike_bits;
    const int32_t* sums = pairs_[pair % 2].sums[0][0] + from * kSliceOutputs;
    for (int64_t i = from; i < to; ++i, sums += kSliceOutputs) {
      Vec mem[V], syn[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        mem[v] = load(mem_[i] + v * L);
        syn[v] = broadcast(0.0f);
        if constexpr (Rule::has_synapse) syn[v] = load(syn_[i] + v * L);
      }
      const auto step = [&](int64_t second) {
        uint32_t spikes = 0;
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
          constexpr int64_t kSums = kSliceRows * kSliceOutputs;
          const int32_t* of = sums + second * S * kSums + v * L;
          // 65536 and the scale are powers of two, and the integers multiples of the latter: both products are exact.
          Vec h = to_float(of + (S - 2) * kSums, of + (S - 1) * kSums);
          if constexpr (S == 3) h = multiply_add(to_float(of), broadcast(65536.0f), h);
          h = multiply_add(h, scale[v], bias[v]);
          const auto mask = Rule::step(mem[v], syn[v], h, constants);
          if constexpr (Rule::fires) spikes |= bits(mask) << (v * L);
        }
        if constexpr (Rule::fires) {
          const auto word = static_cast<uint16_t>(spikes);
          __builtin_memcpy(spike_bits[i] + bits_at + second * stride, &word, sizeof word);
        }
        if constexpr (Recorded) record(mem, i, first + second);
      };
      step(0);
      if (both) step(1);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        store_(mem_[i] + v * L, mem[v]);
        if constexpr (Rule::has_synapse) store_(syn_[i] + v * L, syn[v]);
      }
    }
  }

  void record(const Vec (&mem)[V], int64_t i, int64_t t) {
    for (int v = 0; v < V; ++v) store_(mem_[i] + v * L, mem[v]);
    if (a_.total[i]) {
      for (int64_t j = 0; j < width_; ++j) a_.total[i][begin_ + j] += mem_[i][j];
    }
    if (a_.potentials[i]) {
      __builtin_memcpy(a_.potentials[i] + t * a_.potentials_stride + begin_, mem_[i],
                       static_cast<size_t>(valid_) * sizeof(float));
    }
  }

  SNNFAST_INLINE static void store_(float* p, Vec a) { snnfast::store(p, a); }

  const SliceScan& a_;
  const NeuronConstants<Vec>& constants_;
  const bool recorded_;  // of a layer, all its samples or none
  int64_t begin_ = 0, width_ = 0, valid_ = 0;
  alignas(64) float mem_[kSliceRows][kSliceOutputs];
  alignas(64) float syn_[kSliceRows][kSliceOutputs];
  Vec scale_[V], bias_[V];
  StepPair<S> pairs_[2];
};

// 64 bits become 64 bytes of 0 or 1.
SNNFAST_INLINE void expand_bits(uint64_t bits, uint8_t* bytes) {
#if defined(__AVX512BW__)
  _mm512_storeu_si512(bytes, _mm512_maskz_set1_epi8(bits, 1));
#else
  for (int64_t i = 0; i < 64; ++i) bytes[i] = static_cast<uint8_t>(bits >> i & 1u);
#endif
}

}  // namespace
}  // namespace snnfast
