// SPDX-License-Identifier: Apache-2.0
// Panels: how a layer's outputs are cut, and how what is known at run time (vectors of a panel, the neuron's dynamics)
// becomes a compile-time constant.
#pragma once

#include "core/neuron.h"
#include "cpu/kernels.h"
#include "cpu/simd.h"

namespace snnfast {
namespace {

constexpr int kPanelVectors = 4;
constexpr int64_t kPanel = kPanelVectors * Vec::lanes;

// Vectors of panel p; the last one may have fewer.
SNNFAST_INLINE int64_t panel_vectors(const LayerView& layer, int64_t p) {
  const int64_t left = layer.padded - p * kPanel;
  return (left < kPanel ? left : kPanel) / Vec::lanes;
}

// Call `f` with the number of vectors in a panel as a compile-time constant.
template <int V>
struct VectorCount {
  static constexpr int value = V;
};

template <class F>
void with_vectors(int64_t vectors, F&& f) {
  switch (vectors) {
    case 1:
      return f(VectorCount<1>{});
    case 2:
      return f(VectorCount<2>{});
    case 3:
      return f(VectorCount<3>{});
    default:
      return f(VectorCount<4>{});
  }
}

// Call `f` with a rule type for the network's dynamics. A general factor beta serves 1 as well, since 1 * x is x.
template <bool Delayed, Reset reset, class F>
void with_factors(const NetworkView& net, F&& f) {
  if (net.alpha != 0.0f) return f(NeuronRule<Delayed, reset, true, true>{});
  if (net.beta != 1.0f) return f(NeuronRule<Delayed, reset, false, true>{});
  return f(NeuronRule<Delayed, reset, false, false>{});
}

template <class F>
void with_rule(const NetworkView& net, bool fires, F&& f) {
  if (net.delayed) {
    if (!fires) return with_factors<true, Reset::none>(net, f);
    if (net.reset_to_zero) return with_factors<true, Reset::zero>(net, f);
    return with_factors<true, Reset::subtraction>(net, f);
  }
  if (!fires) return with_factors<false, Reset::none>(net, f);
  if (net.reset_to_zero) return with_factors<false, Reset::zero>(net, f);
  return with_factors<false, Reset::subtraction>(net, f);
}

// The standard library's is not for these files.
template <class A, class B>
struct IsSame {
  static constexpr bool value = false;
};
template <class A>
struct IsSame<A, A> {
  static constexpr bool value = true;
};

template <class V = Vec>
SNNFAST_INLINE NeuronConstants<V> vector_constants(const NetworkView& net) {
  return {broadcast_as<V>(net.alpha), broadcast_as<V>(net.beta), broadcast_as<V>(net.threshold)};
}

// One step of the vector of neurons at a place among others; neighbours subtract in different ways, see FusedVec.
template <class Rule, class T>
SNNFAST_INLINE auto step_beside(int place, T& mem, T& syn, T h, const NeuronConstants<T>& c) {
  if constexpr (T::lanes == Vec::lanes) {
    if (place & 1) {
      FusedVec m = mem, y = syn;
      const auto mask = Rule::template step<FusedVec>(m, y, h, {c.alpha, c.beta, c.threshold});
      mem = m;
      syn = y;
      return mask;
    }
  }
  return Rule::step(mem, syn, h, c);
}

}  // namespace
}  // namespace snnfast
