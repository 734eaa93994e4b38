// SPDX-License-Identifier: Apache-2.0
// Choosing the neuron's rule while a kernel runs: the choice is the same for the whole launch, so it costs a few
// branches that no thread disagrees about, and saves a kernel for each of the 18 rules.
#pragma once

#include "core/neuron.h"
#include "cuda/kernels.h"
#include "cuda/platform.h"

namespace snnfast::cuda {
namespace {

template <bool Delayed, Reset reset, class F>
__device__ __forceinline__ void with_factors(const RuleCode& code, F&& f) {
  // A general factor beta serves 1 as well, since 1 * x is x.
  if (code.has_alpha) {
    f(NeuronRule<Delayed, reset, true, true>{});
  } else if (code.has_beta) {
    f(NeuronRule<Delayed, reset, false, true>{});
  } else {
    f(NeuronRule<Delayed, reset, false, false>{});
  }
}

template <bool Delayed, class F>
__device__ __forceinline__ void with_reset(const RuleCode& code, F&& f) {
  if (!code.fires) {
    with_factors<Delayed, Reset::none>(code, f);
  } else if (code.reset_to_zero) {
    with_factors<Delayed, Reset::zero>(code, f);
  } else {
    with_factors<Delayed, Reset::subtraction>(code, f);
  }
}

template <class F>
__device__ __forceinline__ void with_rule(const RuleCode& code, F&& f) {
  if (code.delayed) {
    with_reset<true>(code, f);
  } else {
    with_reset<false>(code, f);
  }
}

}  // namespace
}  // namespace snnfast::cuda
