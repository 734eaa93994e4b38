// SPDX-License-Identifier: Apache-2.0
// How what samples side by side have sent becomes the next layer's currents. Weights are taken in blocks that stay in
// the first-level cache until all samples have added what they need of them. Two samples add at once: the sums of one
// wait for each other.
#pragma once

#include "cpu/coded_sample.h"

namespace snnfast {
namespace {

// With shorter lists two samples do not add at once, and where they are shorter on average, samples do not go through
// the layers together (run_coded.h).
constexpr int64_t kFewSent = 8;

// Adds what the k-th neuron in a sample's list has sent, to the sums of a panel.
template <int V, bool Fused>
SNNFAST_INLINE void add_sent(const float* weights, const CodedSample& s, int64_t k, Vec (&h)[V]) {
  const int64_t id = s.ids[k];
  const Vec x = broadcast(s.values[id]);
  const float* const row = weights + id * (V * Vec::lanes);
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) {
    const Vec weight = load(row + v * Vec::lanes);
    h[v] = Fused ? multiply_add(weight, x, h[v]) : h[v] + weight * x;
  }
}

// A sample's sums for a panel of outputs from `begin` on, and the part of its list that is in block b of `blocks`.
template <int V>
struct Arriving {
  const CodedSample& s;
  int64_t begin, k, end;
  bool last;
  Vec h[V];

  SNNFAST_INLINE Arriving(const CodedSample& of, int64_t begin_, int64_t b, int64_t blocks)
      : s(of), begin(begin_), k(b ? of.cuts[b] : 0), last(b + 1 == blocks) {
    end = last ? s.n_ids : s.cuts[b + 1];
    for (int v = 0; v < V; ++v) h[v] = b ? load(s.arriving + begin + v * Vec::lanes) : broadcast(0.0f);
  }
  SNNFAST_INLINE void keep(bool adds) const {
    float* const to = (last ? s.to : s.arriving) + begin;
    for (int v = 0; v < V; ++v) {
      float* const at = to + v * Vec::lanes;
      store(at, last && adds ? load(at) + h[v] : h[v]);
    }
  }
};

template <int V, bool Fused>
SNNFAST_INLINE void arrive_at(const float* weights, int64_t begin, int64_t blocks, bool adds,
                              CodedSample* const* samples, int64_t count) {
  for (int64_t b = 0; b < blocks; ++b) {
    for (int64_t i = 0; i < count; i += 2) {
      Arriving<V> one(*samples[i], begin, b, blocks);
      if (i + 1 < count) {
        Arriving<V> other(*samples[i + 1], begin, b, blocks);
        const int64_t left = one.end - one.k, others = other.end - other.k;
        for (int64_t n = left < others ? left : others; n > 0; --n) {
          add_sent<V, Fused>(weights, one.s, one.k++, one.h);
          add_sent<V, Fused>(weights, other.s, other.k++, other.h);
        }
        while (other.k < other.end) add_sent<V, Fused>(weights, other.s, other.k++, other.h);
        other.keep(adds);
      }
      while (one.k < one.end) add_sent<V, Fused>(weights, one.s, one.k++, one.h);
      one.keep(adds);
    }
  }
}

template <bool Fused>
__attribute__((noinline)) void arrive_of(const LayerView& layer, int64_t blocks, bool adds, CodedSample* const* samples,
                                         int64_t count) {
  for_panels(layer, [&](auto vectors, int64_t begin, const float* weights) SNNFAST_ALWAYS {
    arrive_at<decltype(vectors)::value, Fused>(weights, begin, blocks, adds, samples, count);
  });
}

// The current that each sample's list gives a layer, without the bias, inputs ascending: in its row `to`, or, Adds,
// added to that. Nothing is done for those whose list is empty. Fused: where no product is rounded, so that a fused
// multiply-add gives the same bits.
template <bool Fused>
void arrive(const LayerView& layer, bool adds, CodedSample* samples, int64_t count) {
  CodedSample* some[kSideBySide];
  int64_t n = 0;
  for (int64_t i = 0; i < count; ++i) {
    CodedSample* one = &samples[i];
    if (one->n_ids >= kFewSent) {
      some[n++] = one;
    } else if (one->n_ids > 0) {
      arrive_of<Fused>(layer, 1, adds, &one, 1);
    }
  }
  const int64_t blocks = n > 2 ? (layer.n_in + kBlockInputs - 1) / kBlockInputs : 1;
  if (n > 0) arrive_of<Fused>(layer, blocks, adds, some, n);
}

// The complete current of a layer: the first one's, or what has arrived in s.arriving, and the bias.
struct Arrived {
  const float *row, *bias;  // null: zeros

  Arrived(const LayerView& layer, int64_t l, const CodedSample& s)
      : row(l == 0        ? s.constant
            : s.n_ids > 0 ? s.arriving
                          : nullptr),
        bias(l == 0 ? nullptr : layer.bias) {}
  SNNFAST_INLINE Vec current(int64_t j) const {
    const Vec h = row ? load(row + j) : broadcast(0.0f);
    return bias ? h + load(bias + j) : h;
  }
};

}  // namespace
}  // namespace snnfast
