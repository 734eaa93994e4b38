// SPDX-License-Identifier: Apache-2.0
// One float, in the vocabulary of core/neuron.h, for kernels that are short of the units that compare and select: a
// device has half as many of those as of the ones that multiply and add. So a mask is a number, 1 or 0, and what it
// chooses is multiplied by it: exactly, and the fused multiply-add rounds only the sum.
#pragma once

#include "core/neuron.h"
#include "cuda/platform.h"

namespace snnfast::cuda {
namespace {

struct Lane {
  float value;
};
struct Fired {
  float value;  // 1 or 0
};

SNNFAST_HOST_DEVICE Lane operator+(Lane a, Lane b) { return {a.value + b.value}; }
SNNFAST_HOST_DEVICE Fired at_least(Lane a, Lane b) { return {a.value >= b.value ? 1.0f : 0.0f}; }
SNNFAST_HOST_DEVICE Lane subtract_where(Fired mask, Lane a, Lane b) { return {fmaf(-b.value, mask.value, a.value)}; }

}  // namespace
}  // namespace snnfast::cuda
