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

// What the last hidden layer has sent and may still send. The original's drives may be drift + terms * rounding from
// these.
struct DigitsLeft {
  const float *drive, *sent, *drift, *rounding;
  float terms;
};

// False where digits_are_certain is. The same terms, a neuron in every lane, are added in another order, which the
// bound allows for: n of them, in any order, round by at most n 2^-23 times the sum of their magnitudes; twice that is
// taken, since what is compared has been rounded as well.
inline bool digits_may_be_certain(const CodeView& code, const LayerView& hidden, const LayerView& last,
                                  const DigitsLeft& left, const float* output) {
  const Best best = best_of(output, last.n_out);
  if (!best.ordered) return false;
  constexpr int L = Vec::lanes;
  const Vec zero = broadcast(0.0f), terms = broadcast(left.terms);
  const float* const top = code.by_output + best.index * hidden.padded;
  for (int64_t b = 0; b < last.n_out; ++b) {
    if (b == best.index) continue;
    const float* const weights = code.by_output + b * hidden.padded;
    Vec sum = zero, size = zero;
    for (int64_t j = 0; j < hidden.padded; j += L) {
      const Vec drive = load(left.drive + j), sent = load(left.sent + j);
      const Vec moves = load(left.drift + j) + terms * load(left.rounding + j);
      const Vec low = larger(drive - moves, zero) - sent, high = larger(drive + moves, zero) - sent;
      const Vec difference = load(top + j) - load(weights + j);
      const Vec term = smaller(difference * low, difference * high);
      sum = sum + term;
      size = size + magnitude(term);
    }
    float sums[L], sizes[L];
    store(sums, sum);
    store(sizes, size);
    double worst = 0.0, most = 0.0;
    for (int64_t i = 0; i < L; ++i) {
      worst += static_cast<double>(sums[i]);
      most += static_cast<double>(sizes[i]);
    }
    const double ahead = static_cast<double>(best.first - output[b]);
    if (ahead + worst + static_cast<double>(hidden.padded) * 0x1p-22 * most <= static_cast<double>(code.slack)) {
      return false;
    }
  }
  return true;
}

inline bool digits_are_certain(const CodeView& code, const LayerView& hidden, const LayerView& last,
                               const DigitsLeft& left, const float* output, float* worst) {
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
      const float moves = left.drift[j] + left.terms * left.rounding[j];
      const Vec low = broadcast(larger(left.drive[j] - moves, 0.0f) - left.sent[j]);
      const Vec high = broadcast(larger(left.drive[j] + moves, 0.0f) - left.sent[j]);
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
