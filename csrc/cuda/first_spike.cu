// SPDX-License-Identifier: Apache-2.0
// Decoding "first_spike": a thread looks through the steps of one sample.
#include "cuda/inputs.h"

namespace snnfast::cuda {
namespace {

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kThreads) first_spike_kernel(FirstSpike a) {
  const int64_t row = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (row >= a.rows) return;
  float* output = a.output + (a.first_row + row) * a.n_out;
  if (a.first_tile) {
    for (int32_t j = 0; j < a.n_out; ++j) output[j] = 0.0f;
  } else if (a.answered[row]) {
    return;
  }
  bool found = false;
  for (int64_t t = 0; t < a.steps && !found; ++t) {
    const uint32_t* words = a.bits.words + (row * a.steps + t) * a.bits.stride;
    for (int32_t j = 0; j < a.n_out; ++j) {
      if (words[j / 32] >> (j % 32) & 1) {
        output[j] = 1.0f;
        found = true;
      }
    }
  }
  a.answered[row] = found;
}

}  // namespace

void first_spike(const FirstSpike& a, void* stream) {
  launch("first_spike", first_spike_kernel, {blocks_for(a.rows, kThreads), 1}, kThreads, 0, stream, a);
}

}  // namespace snnfast::cuda
