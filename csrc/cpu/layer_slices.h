// SPDX-License-Identifier: Apache-2.0
// One layer over a tile of time steps, for a block of samples, by products of whole matrices (slice_products.h), then
// the neuron step.
//
// The integers are exact. What is rounded: weights that need more than 24 bits below their row's largest (when the
// slices are made), and the joining of the slices' sums. Where a row's weights lie on a grid, neither rounds anything,
// and the result is the canonical sum: see docs/numerics.md.
#pragma once

#include "cpu/certain_slices.h"
#include "cpu/layer_scan.h"
#include "cpu/panels.h"
#include "cpu/slice_products.h"

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
  const BlockCertainty* certainty;  // of a layer in doubt
};

struct SliceScratch {
  float* currents;  // (kSliceRows, steps and two more, kMostAtOnce * kSliceOutputs)
};

constexpr int kMostAtOnce = kSumTiles / kFewestSlices;  // output tiles

template <class Arena>
SliceScratch take_slices(Arena& arena, int64_t steps) {
  SliceScratch s;
  s.currents = arena.template take<float>(kSliceRows * (steps + 2) * kMostAtOnce * kSliceOutputs);
  return s;
}

// A vector of currents from a sample's sums in S slices: h = (65536 high + 256 middle + low) scale + bias. Whole: in
// whole numbers, which may wrap on the way, but fit in the end.
template <int S, bool Whole = false>
SNNFAST_INLINE Vec join_slices(const int32_t* sums, Vec scale, Vec bias) {
  if constexpr (Whole) {
    Integers all = load(sums);
#pragma GCC unroll 2
    for (int s = 1; s < S; ++s) all = shift_byte(all) + load(sums + s * kSumsOfTile);
    return multiply_add(to_float(all), scale, bias);
  }
  // 65536 and the scale are powers of two, and the integers multiples of the latter: both products are exact.
  Vec h = to_float(sums + (S - 2) * kSumsOfTile, sums + (S - 1) * kSumsOfTile);
  if constexpr (S == 3) h = multiply_add(to_float(sums), broadcast(65536.0f), h);
  return multiply_add(h, scale, bias);
}

// scan_sample of some rule.
using ScanSample = void (*)(const NetworkView&, const Scan&, int64_t vectors);

// O output tiles from `first` on, P steps at once.
template <int S, int O, int P>
class SliceScanner {
  static constexpr int L = Vec::lanes, kOfTile = static_cast<int>(kSliceOutputs) / L, V = O * kOfTile;
  static constexpr int64_t kOutputs = O * kSliceOutputs;

 public:
  SliceScanner(const SliceScan& scan, const SliceScratch& scratch, int64_t first)
      : a_(scan),
        scratch_(scratch),
        first_(first),
        begin_(first * kSliceOutputs),
        width_(a_.padded - begin_ < kOutputs ? a_.padded - begin_ : kOutputs),
        products_(*scan.slices, scan.bytes, scan.steps) {}

  // The neurons take their steps as soon as the sums are there. For rules whose neurons fire, and no records.
  template <class Rule>
  __attribute__((noinline)) void run(const NeuronConstants<Vec>& constants) {
    __builtin_memset(mem_, 0, sizeof mem_);
    if constexpr (Rule::has_synapse) __builtin_memset(syn_, 0, sizeof syn_);
    const size_t bytes = static_cast<size_t>(width_) * sizeof(float);
    for (int64_t i = 0; i < a_.count; ++i) {
      __builtin_memcpy(mem_[i], a_.mem[i] + begin_, bytes);
      if constexpr (Rule::has_synapse) __builtin_memcpy(syn_[i], a_.syn[i] + begin_, bytes);
    }
    const Fixed fixed = this->fixed();
    const NeuronConstants<Vec> neuron = constants;
    const int64_t stride = a_.bits_stride, bits_at = begin_ / 8, steps = a_.steps;
    Tiles tiles;
    products_.run(tiles, first_, a_.count, [&](const int32_t* sums, int64_t t, int64_t i) SNNFAST_BESIDE {
      char* const row = a_.spike_bits[i] + t * stride + bits_at;
      step<Rule, 0>(fixed, neuron, sums + i * kSliceOutputs, mem_[i], syn_[i], row, stride, steps - t);
    });
    for (int64_t i = 0; i < a_.count; ++i) {
      __builtin_memcpy(a_.mem[i] + begin_, mem_[i], bytes);
      if constexpr (Rule::has_synapse) __builtin_memcpy(a_.syn[i] + begin_, syn_[i], bytes);
    }
  }

  // The same where spikes have to be those of the canonical sums; notes which neurons are in doubt.
  __attribute__((noinline)) void run_certain(const NetworkView& net, const LayerView& layer) {
    const BlockCertainty& certainty = *a_.certainty;
    const size_t bytes = static_cast<size_t>(width_) * sizeof(float);
    __builtin_memset(mem_, 0, sizeof mem_);
    for (int64_t i = 0; i < a_.count; ++i) {
      __builtin_memcpy(mem_[i], a_.mem[i] + begin_, bytes);
      for (float& distance : distance_[i]) distance = kFar;
      for (float& largest : largest_[i]) largest = 0.0f;
    }
    const Fixed fixed = this->fixed();
    const NeuronConstants<Vec> neuron = vector_constants(net);
    const int64_t stride = a_.bits_stride, bits_at = begin_ / 8, steps = a_.steps;
    Reached reached;
    for (int v = 0; v < V; ++v) reached.current[v] = broadcast(0.0f);
    Tiles tiles;
    products_.run(tiles, first_, a_.count, [&](const int32_t* sums, int64_t t, int64_t i) SNNFAST_BESIDE {
      char* const row = a_.spike_bits[i] + t * stride + bits_at;
      certain_step<0>(fixed, neuron, sums + i * kSliceOutputs, i, row, stride, steps - t, reached);
      if (t + P >= steps || (t + P) / kSegmentSteps > t / kSegmentSteps) {
        check<0>(fixed, layer, certainty.bounds(i, t / kSegmentSteps), reached, i);
      }
    });
    for (int64_t i = 0; i < a_.count; ++i) __builtin_memcpy(a_.mem[i] + begin_, mem_[i], bytes);
  }

  // Only the currents, of all steps.
  __attribute__((noinline)) void make_currents() {
    float* const currents = scratch_.currents;
    const int64_t steps = a_.steps;
    const Fixed fixed = this->fixed();
    Tiles tiles;
    products_.run(tiles, first_, a_.count, [&](const int32_t* sums, int64_t t, int64_t i) SNNFAST_BESIDE {
      join<0>(fixed, sums + i * kSliceOutputs, currents + (i * (steps + 2) + t) * kOutputs);
    });
  }

  // The neurons under these currents.
  void scan_currents(const NetworkView& net, ScanSample scan_sample) const {
    constexpr int kVectors = L == 16 ? O : kOfTile;  // that fit a panel
    for (int64_t i = 0; i < a_.count; ++i) {
      for (int64_t at = 0; at < width_; at += kVectors * L) {
        const int64_t from = begin_ + at, left = a_.n_out - from;
        Scan scan;
        scan.current = scratch_.currents + i * (a_.steps + 2) * kOutputs + at;
        scan.current_stride = kOutputs;
        scan.mem = a_.mem[i] + from;
        scan.syn = a_.syn[i] + from;
        scan.total = a_.total[i] ? a_.total[i] + from : nullptr;
        scan.spike_bits = a_.spike_bits[i] + from / 8;
        scan.stride = a_.bits_stride;
        scan.valid = left < kVectors * L ? left : kVectors * L;
        scan.potentials = a_.potentials[i] ? a_.potentials[i] + from : nullptr;
        scan.potentials_stride = a_.potentials_stride;
        scan.steps = a_.steps;
        scan_sample(net, scan, (width_ - at < kVectors * L ? width_ - at : kVectors * L) / L);
      }
    }
  }

 private:
  // What all samples and steps share: a copy, which stays in registers while tiles are loaded and stored.
  struct Fixed {
    Vec scale[V], bias[V];
  };

  SNNFAST_INLINE Fixed fixed() const {
    Fixed f;
    for (int v = 0; v < V; ++v) {
      f.scale[v] = load(a_.slices->scale + begin_ + v * L);
      f.bias[v] = load(a_.slices->bias + begin_ + v * L);
    }
    return f;
  }

  // Of vector I of a sample's neurons in step T.
  template <int I, int T, bool Whole = false>
  SNNFAST_INLINE static Vec current(const Fixed& fixed, const int32_t* sums) {
    const int32_t* const of = sums + (T * O + I / kOfTile) * S * kSumsOfTile + I % kOfTile * L;
    return join_slices<S, Whole>(of, fixed.scale[I], fixed.bias[I]);
  }

  // A sample's currents. Not a loop, nor are the next ones: of an array in a loop, the compiler keeps nothing in
  // registers.
  template <int I, int T = 0>
  SNNFAST_INLINE static void join(const Fixed& fixed, const int32_t* sums, float* currents) {
    if constexpr (T < P) {
      store(currents + T * kOutputs + I * L, current<I, T>(fixed, sums));
      join<(I + 1) % V, T + (I + 1) / V>(fixed, sums, currents);
    }
  }

  // Vector I of a sample's neurons and all after it.
  template <class Rule, int I>
  SNNFAST_INLINE static void step(const Fixed& fixed, const NeuronConstants<Vec>& neuron, const int32_t* sums,
                                  float* mem, float* syn, char* row, int64_t stride, int64_t left) {
    if constexpr (I < V) {
      Vec m = load(mem + I * L), s = broadcast(0.0f);
      if constexpr (Rule::has_synapse) s = load(syn + I * L);
      step_in<Rule, I, 0>(fixed, neuron, sums, m, s, row, stride, left);
      store(mem + I * L, m);
      if constexpr (Rule::has_synapse) store(syn + I * L, s);
      step<Rule, I + 1>(fixed, neuron, sums, mem, syn, row, stride, left);
    }
  }

  // In step T and all after it.
  template <class Rule, int I, int T>
  SNNFAST_INLINE static void step_in(const Fixed& fixed, const NeuronConstants<Vec>& neuron, const int32_t* sums,
                                     Vec& mem, Vec& syn, char* row, int64_t stride, int64_t left) {
    if constexpr (T < P) {
      if (T > 0 && T >= left) return;
      store_bits(row + T * stride, I, Rule::step(mem, syn, current<I, T>(fixed, sums), neuron));
      step_in<Rule, I, T + 1>(fixed, neuron, sums, mem, syn, row, stride, left);
    }
  }

  // The largest currents so far, of all samples.
  struct Reached {
    Vec current[V];
  };

  template <int I>
  SNNFAST_INLINE void certain_step(const Fixed& fixed, const NeuronConstants<Vec>& neuron, const int32_t* sums,
                                   int64_t i, char* row, int64_t stride, int64_t left, Reached& reached) {
    if constexpr (I < V) {
      Vec m = load(mem_[i] + I * L), d = load(distance_[i] + I * L), most = load(largest_[i] + I * L);
      certain_step_in<I, 0>(fixed, neuron, sums, m, d, most, row, stride, left, reached);
      store(mem_[i] + I * L, m);
      store(distance_[i] + I * L, d);
      store(largest_[i] + I * L, most);
      certain_step<I + 1>(fixed, neuron, sums, i, row, stride, left, reached);
    }
  }

  template <int I, int T>
  SNNFAST_INLINE static void certain_step_in(const Fixed& fixed, const NeuronConstants<Vec>& neuron,
                                             const int32_t* sums, Vec& mem, Vec& distance, Vec& largest, char* row,
                                             int64_t stride, int64_t left, Reached& reached) {
    if constexpr (T < P) {
      if (T > 0 && T >= left) return;
      const Vec h = current<I, T, true>(fixed, sums), membrane = mem + h;
      Vec syn = broadcast(0.0f);
      store_bits(row + T * stride, I, CertainRule::step(mem, syn, h, neuron));
      reached.current[I] = larger_magnitude(reached.current[I], h);
      largest = larger_magnitude(largest, membrane);
      distance = smaller_magnitude(distance, membrane - neuron.threshold);
      certain_step_in<I, T + 1>(fixed, neuron, sums, mem, distance, largest, row, stride, left, reached);
    }
  }

  // Whether neurons have stayed further from the threshold, in a segment of steps, than the bound at its end.
  template <int I>
  SNNFAST_INLINE void check(const Fixed& fixed, const LayerView& layer, const float* bounds, const Reached& reached,
                            int64_t i) {
    if constexpr (I < V) {
      const int64_t at = begin_ + I * L;
      const Vec sums = load(layer.usual + at) * broadcast(bounds[0]) + load(layer.excess + at) * broadcast(bounds[1]);
      const Vec sizes = (reached.current[I] + magnitude(fixed.bias[I])) * broadcast(bounds[2]) +
                        load(largest_[i] + I * L) * broadcast(bounds[3]);
      const Mask sure = above(load(distance_[i] + I * L), sums + sizes + broadcast(0x1p-126f));
      const uint32_t doubts = ~bits(sure) & ((1u << L) - 1);
      if (doubts) a_.certainty->doubt(i, at, doubts);
      store(distance_[i] + I * L, broadcast(kFar));
      check<I + 1>(fixed, layer, bounds, reached, i);
    }
  }

  const SliceScan& a_;
  const SliceScratch& scratch_;
  const int64_t first_, begin_, width_;
  alignas(64) float mem_[kSliceRows][kOutputs];
  alignas(64) float syn_[kSliceRows][kOutputs];
  alignas(64) float distance_[kSliceRows][kOutputs];
  alignas(64) float largest_[kSliceRows][kOutputs];
  SliceProducts<S, O, P> products_;
};

// Calls `run` with a scanner of some output tiles of a layer, from `first` on; returns how many.
template <int S, class F>
SNNFAST_INLINE int64_t with_scanner(const SliceScan& scan, const SliceScratch& scratch, int64_t first, const F& run) {
  constexpr int kTogether = kSumTiles / S;
  if (scan.slices->input_tiles <= kFewInputTiles && scan.slices->output_tiles - first >= kTogether) {
    run(SliceScanner<S, kTogether, 1>(scan, scratch, first));
    return kTogether;
  }
  run(SliceScanner<S, 1, kTogether>(scan, scratch, first));
  return 1;
}

// Such tiles, whatever the rule and the records.
template <int S>
__attribute__((noinline)) int64_t scan_slices_by_currents(const SliceScan& scan, const SliceScratch& scratch,
                                                          const NetworkView& net, int64_t first,
                                                          ScanSample scan_sample) {
  return with_scanner<S>(scan, scratch, first, [&](auto scanner) {
    scanner.make_currents();
    scanner.scan_currents(net, scan_sample);
  });
}

// Such tiles, the quickest way. What few networks have is worth less code.
template <class Rule, int S>
int64_t scan_slices(const SliceScan& scan, const SliceScratch& scratch, const NetworkView& net, const LayerView& layer,
                    int64_t first) {
  if constexpr (IsSame<Rule, CertainRule>::value) {
    if (scan.certainty) {
      return with_scanner<S>(scan, scratch, first, [&](auto scanner) { scanner.run_certain(net, layer); });
    }
  }
  if constexpr (kStepsBeside && Rule::fires && !Rule::has_factors) {
    if (!scan.total[0] && !scan.potentials[0]) {  // of a layer, all samples are recorded or none
      return with_scanner<S>(scan, scratch, first,
                             [&](auto scanner) { scanner.template run<Rule>(vector_constants(net)); });
    }
  }
  return scan_slices_by_currents<S>(scan, scratch, net, first, scan_sample<Rule>);
}

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
