// SPDX-License-Identifier: Apache-2.0
// When a decision may stop: the margin of the running output, or the proof that nothing can overtake any more. Every
// sum is in the order of python/snnfast/reference/codes.py, so that all implementations stop at the same step.
#pragma once

#include "core/best.h"
#include "cpu/coded_sample.h"

namespace snnfast {
namespace {

inline bool margin_suffices(const CodeView& code, const float* output, int64_t n, int64_t t) {
  const Best best = best_of(output, n);
  return best.ordered && best.first - best.second > code.bounds[t];
}

// Whether the largest output stays the largest if `worst` comes: (padded n).
inline bool leads(const CodeView& code, const Best& best, const float* output, const float* worst, int64_t n) {
  for (int64_t b = 0; b < n; ++b) {
    if (b != best.index && !((best.first - output[b]) + worst[b] > code.slack)) return false;
  }
  return true;
}

inline bool radix_is_certain(const CodeView& code, const float* output, const LayerView& last, int64_t t,
                             float* worst) {
  const Best best = best_of(output, last.n_out);
  if (!best.ordered) return false;
  for (int64_t b = 0; b < last.n_out; ++b) worst[b] = code.left[t] * code.overtake[best.index * last.padded + b];
  return leads(code, best, output, worst, last.n_out);
}

// `drive` and `sent` of the last hidden layer; the original's drives may be drift + terms * rounding from these.
inline bool digits_are_certain(const CodeView& code, const LayerView& hidden, const LayerView& last, const float* drive,
                               const float* sent, const float* drift, const float* rounding, float terms,
                               const float* output, float* worst) {
  const Best best = best_of(output, last.n_out);
  if (!best.ordered) return false;
  constexpr int L = Vec::lanes;
  const int64_t best_panel = best.index / kPanel, best_width = panel_vectors(last, best_panel) * L;
  const float* best_weights = last.weights + best_panel * kPanel * last.n_in + (best.index - best_panel * kPanel);
  for_panels(last, [&](auto vectors, int64_t begin, const float* weights) {
    constexpr int V = decltype(vectors)::value;
    Vec sum[V];
    for (int v = 0; v < V; ++v) sum[v] = broadcast(0.0f);
    for (int64_t j = 0; j < hidden.n_out; ++j) {
      const float moves = drift[j] + terms * rounding[j];
      const Vec low = broadcast(larger(drive[j] - moves, 0.0f) - sent[j]);
      const Vec high = broadcast(larger(drive[j] + moves, 0.0f) - sent[j]);
      const Vec top = broadcast(best_weights[j * best_width]);
      for (int v = 0; v < V; ++v) {
        const Vec difference = top - load(weights + (j * V + v) * L);
        sum[v] = sum[v] + smaller(difference * low, difference * high);
      }
    }
    for (int v = 0; v < V; ++v) store(worst + begin + v * L, sum[v]);
  });
  return leads(code, best, output, worst, last.n_out);
}

}  // namespace
}  // namespace snnfast
