// SPDX-License-Identifier: Apache-2.0
// The current of a first layer whose input is numbers: inputs ascending, product and sum rounded separately (built
// with -fmad=false), bias last. A thread computes one neuron for several samples, whose inputs pass through shared
// memory.
#include "cuda/inputs.h"

namespace snnfast::cuda {
namespace {

constexpr int kThreads = 128, kSamples = 8, kInputs = 256;

__global__ void __launch_bounds__(kThreads) current_kernel(Current a) {
  __shared__ float4 staged[kInputs * kSamples / 4];  // (inputs, samples)
  float* const numbers = reinterpret_cast<float*>(staged);
  const int32_t at = static_cast<int32_t>(blockIdx.y) * kThreads + static_cast<int32_t>(threadIdx.x);
  const int32_t width = 4 * a.lanes;
  const bool real = at < a.padded;
  const int64_t first = int64_t{blockIdx.x} * kSamples;
  // A panel has one row of zeros after its n_in rows.
  const float* weights = a.weights + (real ? int64_t{at / width} * (a.inputs.features + 1) * width + at % width : 0);
  float h[kSamples] = {};
  for (int32_t begin = 0; begin < a.inputs.features; begin += kInputs) {
    const int32_t count = a.inputs.features - begin < kInputs ? a.inputs.features - begin : kInputs;
    __syncthreads();
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < count * kSamples; i += kThreads) {
      const int32_t sample = i / count, j = i % count;
      numbers[j * kSamples + sample] =
          first + sample < a.inputs.rows ? encoded_input(a.inputs, first + sample, begin + j) : 0.0f;
    }
    __syncthreads();
#pragma unroll 4
    for (int32_t j = 0; j < count; ++j) {
      const float w = weights[int64_t{begin + j} * width];
      const float4 low = staged[j * 2], high = staged[j * 2 + 1];
      h[0] = h[0] + w * low.x;
      h[1] = h[1] + w * low.y;
      h[2] = h[2] + w * low.z;
      h[3] = h[3] + w * low.w;
      h[4] = h[4] + w * high.x;
      h[5] = h[5] + w * high.y;
      h[6] = h[6] + w * high.z;
      h[7] = h[7] + w * high.w;
    }
  }
  if (!real) return;
  const float bias = a.bias[at];
  for (int s = 0; s < kSamples; ++s) {
    if (first + s < a.inputs.rows) a.current[(first + s) * a.padded + at] = h[s] + bias;
  }
}

}  // namespace

void current(const Current& a, void* stream) {
  launch("current", current_kernel, {blocks_for(a.inputs.rows, kSamples), blocks_for(a.padded, kThreads)}, kThreads, 0,
         stream, a);
}

}  // namespace snnfast::cuda
