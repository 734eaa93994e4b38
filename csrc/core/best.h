// SPDX-License-Identifier: Apache-2.0
// Which output leads, and by how much: what an early exit looks at.
#pragma once

#include <cstdint>

#include "core/neuron.h"

namespace snnfast {
namespace {  // internal linkage: this header is compiled once per instruction set

// The largest and the second largest output, and the first place of the largest.
struct Best {
  float first, second;
  int64_t index;
  bool ordered;  // all of them are numbers
};

SNNFAST_HOST_DEVICE Best best_of(const float* output, int64_t n) {
  Best best{output[0], -__builtin_huge_valf(), 0, output[0] == output[0]};
  for (int64_t j = 1; j < n; ++j) {
    const float x = output[j];
    if (x != x) best.ordered = false;
    if (x > best.first) {
      best.second = best.first;
      best.first = x;
      best.index = j;
    } else if (x > best.second) {
      best.second = x;
    }
  }
  return best;
}

}  // namespace
}  // namespace snnfast
