// SPDX-License-Identifier: Apache-2.0
// The integrate-and-fire neuron. This is the only place where its rule is written.
//
// The rule is a template over the value type V: `float`, or a vector of floats for which the overloads at_least, above,
// clear_where, subtract_where and the arithmetic operators exist (csrc/cpu/simd.h), and perhaps subtract_reached. So
// every instruction set and the GPU run these lines.
//
// Exactness: each operation below is rounded by itself (builds use -ffp-contract=off; CUDA must use -fmad=false). A
// factor alpha of 0 leaves its term out, a factor beta of 1 takes the membrane as it is: see HasAlpha and HasBeta.
#pragma once

#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "snnfast promises the bits of IEEE arithmetic: build it without -ffast-math, -Ofast and -ffinite-math-only"
#endif

#if defined(__CUDACC__)
#define SNNFAST_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define SNNFAST_HOST_DEVICE inline __attribute__((always_inline))
#endif

// Of loops that are rare: nvcc would repeat what is in them. (Its host compiler does not know the pragma.)
#if defined(__CUDA_ARCH__)
#define SNNFAST_ROLLED _Pragma("unroll 1")
#else
#define SNNFAST_ROLLED
#endif

namespace snnfast {
namespace {  // internal linkage: this header is compiled once per instruction set

// The vocabulary of the rule for one float; csrc/cpu/simd.h has it for vectors.
SNNFAST_HOST_DEVICE bool at_least(float a, float b) { return a >= b; }
SNNFAST_HOST_DEVICE bool above(float a, float b) { return a > b; }
// `value` where the mask is set, else zero.
SNNFAST_HOST_DEVICE float keep_where(bool mask, float value) { return mask ? value : 0.0f; }
// zero where the mask is set, else `value`.
SNNFAST_HOST_DEVICE float clear_where(bool mask, float value) { return mask ? 0.0f : value; }
// `a` where the mask is set, else `b`.
SNNFAST_HOST_DEVICE float choose(bool mask, float a, float b) { return mask ? a : b; }
SNNFAST_HOST_DEVICE bool both(bool a, bool b) { return a && b; }
// The second where neither is larger (smaller), as with not a number: so are the vector instructions of x86.
SNNFAST_HOST_DEVICE float larger(float a, float b) { return a > b ? a : b; }
SNNFAST_HOST_DEVICE float smaller(float a, float b) { return a < b ? a : b; }
// Without its fraction, from 0 to 2^24.
SNNFAST_HOST_DEVICE float whole(float a) { return static_cast<float>(static_cast<int>(a)); }
// The largest whole number that is not larger, from -2^24 to 2^24.
SNNFAST_HOST_DEVICE float round_down(float a) { return whole(a) - (whole(a) > a ? 1.0f : 0.0f); }
SNNFAST_HOST_DEVICE float magnitude(float a) { return a < 0.0f ? -a : a; }
// 1 with the sign of `a`, which is not zero, where the mask is set, else zero.
SNNFAST_HOST_DEVICE float sign_where(bool mask, float a) { return mask ? (a < 0.0f ? -1.0f : 1.0f) : 0.0f; }
// For a product that is exact: rounded once, whether it is fused or not.
SNNFAST_HOST_DEVICE float multiply_add(float a, float b, float c) { return a * b + c; }
// `a - b` where the mask is set, else `a`: x - 0 is x for every x.
SNNFAST_HOST_DEVICE float subtract_where(bool mask, float a, float b) { return a - keep_where(mask, b); }

// The same where the mask says a >= b, and b is positive: there are types that need no mask for that.
template <class Mask, class V>
SNNFAST_HOST_DEVICE V subtract_reached(Mask mask, V a, V b) {
  return subtract_where(mask, a, b);
}

template <class V>
struct NeuronConstants {
  V alpha, beta, threshold;
};

enum class Reset { none, subtraction, zero };  // none: a last layer that only accumulates; it never fires

template <bool Delayed, Reset reset, bool HasAlpha, bool HasBeta>
struct NeuronRule {
  static constexpr bool fires = reset != Reset::none;
  // Whether the synaptic current must be carried from step to step.
  static constexpr bool has_synapse = Delayed || HasAlpha;
  static constexpr bool has_factors = HasAlpha || HasBeta;

  // One time step: h is the input current (weights times inputs, plus bias). Returns the mask of spikes.
  //   immediate:  syn = alpha syn + h;  mem = beta mem + syn;  spike = mem >= threshold;  reset
  //   delayed:    spike = mem > threshold;  mem = beta mem + syn - threshold spike;  syn = alpha syn + h
  // Source: Rueckauer et al. 2017 (reset by subtraction); SpyTorch (delayed order).
  template <class V>
  SNNFAST_HOST_DEVICE static auto step(V& mem, V& syn, V h, const NeuronConstants<V>& c) {
    V arriving = h;
    if constexpr (HasAlpha) arriving = c.alpha * syn + h;
    V kept = mem;
    if constexpr (HasBeta) kept = c.beta * mem;
    if constexpr (Delayed) {
      const auto spike = above(mem, c.threshold);
      mem = after_reset<V>(kept + syn, spike, c.threshold);
      syn = arriving;
      return spike;
    } else {
      syn = arriving;
      mem = kept + arriving;
      const auto spike = at_least(mem, c.threshold);
      if constexpr (reset == Reset::subtraction) {
        mem = subtract_reached(spike, mem, c.threshold);
      } else {
        mem = after_reset<V>(mem, spike, c.threshold);
      }
      return spike;
    }
  }

 private:
  template <class V, class Mask>
  SNNFAST_HOST_DEVICE static V after_reset(V mem, Mask spike, V threshold) {
    if constexpr (reset == Reset::subtraction) return subtract_where(spike, mem, threshold);
    if constexpr (reset == Reset::zero) return clear_where(spike, mem);
    return mem;
  }
};

// Copies of an integrate-and-fire neuron, with the same current and starts that lie threshold / copies apart. All of
// them receive the same, and one that fires gives up a threshold, so falls that far below the lowest one: their
// potentials, as a set, stay as far apart. So the lowest one, `mem`, tells them all, and as many fire as levels are
// reached; the i-th, from 0, is (i + 1) threshold / copies. Returns how many. Signed: a copy whose potential is below 0
// takes a spike back, if it has sent more than it took back: it sends -1 and adds a threshold. Copies fire in turn, and
// the lowest ones have fired last, so of `net`, what all of them have sent on balance, as many can take one back.
// Returns how many fire less how many take back: either is 0. Source: Wang, Zhang et al. 2022, IJCAI, Signed Neuron
// with Memory, and docs/conversion.md.
template <bool Signed, class V, class Level>
SNNFAST_HOST_DEVICE V copies_step(V& mem, V& net, V h, int copies, Level level, V zero, V one) {
  const V raised = mem + h;
  V sent = zero, moved = zero;
  SNNFAST_ROLLED
  for (int i = 0; i < copies; ++i) {
    const auto reached = at_least(raised, level(i));
    sent = sent + keep_where(reached, one);
    moved = choose(reached, level(i), moved);
  }
  if constexpr (Signed) {
    V taken = zero, added = zero, below = zero;
    SNNFAST_ROLLED
    for (int i = 0; i < copies; ++i) {
      const auto takes = both(above(below, raised), above(net, taken));  // those before took one back as well, or none
      taken = taken + keep_where(takes, one);
      added = choose(takes, level(i), added);
      below = zero - level(i);
    }
    sent = sent - taken;
    moved = moved - added;
    net = net + sent;
  }
  mem = raised - moved;
  return sent;
}

// Levels that are multiples of their first one, and that a power of two, at most 1.
template <class V>
struct EvenLevels {
  V copies, inverse, minus;  // inverse and minus: of the first one
};

// The same with such levels, and the same bits: all products are exact.
template <bool Signed, class V>
SNNFAST_HOST_DEVICE V even_copies_step(V& mem, V& net, V h, const EvenLevels<V>& levels, V zero) {
  const V raised = mem + h;
  V least = zero;
  // What is no number becomes the least, and sends nothing.
  if constexpr (Signed) least = keep_where(above(zero, raised), zero - smaller(net, levels.copies));
  const V reached = smaller(larger(raised * levels.inverse, least), levels.copies);
  const V sent = Signed ? round_down(reached) : whole(reached);
  if constexpr (Signed) net = net + sent;
  mem = multiply_add(sent, levels.minus, raised);
  return sent;
}

// From 0 to 1.
template <class V>
SNNFAST_HOST_DEVICE V clip(V value, V zero, V one) {
  return smaller(larger(value, zero), one);
}

// One digit of what a neuron has still to send: `wanted`, which is its drive, clipped, less what it has sent. Returns
// 1, 0 or -1; without Signed 1 or 0. `fired`: the mask of digits that are not 0. Thresholds are above 0; an infinite
// one silences the neuron.
template <bool Signed, class V, class Mask>
SNNFAST_HOST_DEVICE V digit_step(V wanted, V& sent, V value, V threshold, V one, Mask& fired) {
  const V residual = wanted - sent;
  fired = at_least(Signed ? magnitude(residual) : residual, threshold);
  V digit;
  if constexpr (Signed) {
    digit = sign_where(fired, residual);
  } else {
    digit = keep_where(fired, one);
  }
  sent = multiply_add(digit, value, sent);
  return digit;
}

// The spikes of a radix neuron, as the bits of a whole number: rounded, clipped to its range. Doubling the membrane,
// comparing with 1 and subtracting 1, step by step, gives these bits, highest first: all of that is exact.
template <class V>
SNNFAST_HOST_DEVICE V radix_number(V z, V levels, V offset, V zero) {
  return whole(smaller(larger(levels * z + offset, zero), levels));
}

}  // namespace
}  // namespace snnfast
