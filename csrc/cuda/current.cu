// SPDX-License-Identifier: Apache-2.0
// The current of a first layer whose input is numbers: inputs ascending, product and sum rounded separately (built
// with -fmad=false), bias last. A block takes 128 neurons of 32 samples, a thread four neurons of eight samples.
// Weights and inputs pass through shared memory, 16 inputs at a time; the next 16 are fetched meanwhile.
#include "cuda/inputs.h"

namespace snnfast::cuda {
namespace {

constexpr int kNeurons = 128, kSamples = 32, kInputs = 16;
constexpr int kThreads = 128, kOwn = 8;  // samples of a thread
constexpr int kRow = kSamples + 4;       // of inputs in shared memory; more, so that writers meet fewer banks twice
constexpr int kQuads = kInputs * kNeurons / 4 / kThreads,
              kNumbers = kInputs * kSamples / kThreads;  // that each fetches

__device__ __forceinline__ float4 zeros() {
  float4 none;
  none.x = none.y = none.z = none.w = 0.0f;
  return none;
}

__global__ void __launch_bounds__(kThreads, 3) current_kernel(Current a) {
  __shared__ float4 weights[2][kInputs * kNeurons / 4];
  __shared__ float4 inputs[2][kInputs * kRow / 4];  // (inputs, samples)
  const int thread = static_cast<int>(threadIdx.x), column = thread % 32, group = thread / 32;
  const int32_t width = 4 * a.lanes, features = a.inputs.features;
  const int32_t at = static_cast<int32_t>(blockIdx.y) * kNeurons + 4 * column;  // of this thread's first neuron
  const bool real = at < a.padded;
  const int64_t first = int64_t{blockIdx.x} * kSamples;
  // A panel has one row of zeros after its n_in rows.
  const float* from = a.weights + (real ? int64_t{at / width} * (features + 1) * width + at % width : 0);

  float4 fetched[kQuads];
  float numbers[kNumbers];
  const int64_t sample = first + thread / 4;  // whose inputs this thread fetches
  const auto fetch = [&](int32_t begin) {
#pragma unroll
    for (int i = 0; i < kQuads; ++i) {
      const int32_t k = begin + group + 4 * i;
      fetched[i] = real && k < features ? *reinterpret_cast<const float4*>(from + int64_t{k} * width) : zeros();
    }
#pragma unroll
    for (int i = 0; i < kNumbers; ++i) {
      const int32_t k = begin + thread % 4 + 4 * i;
      numbers[i] = sample < a.inputs.rows && k < features ? encoded_input(a.inputs, sample, k) : 0.0f;
    }
  };
  const auto put_down = [&](int buffer) {
#pragma unroll
    for (int i = 0; i < kQuads; ++i) weights[buffer][(group + 4 * i) * (kNeurons / 4) + column] = fetched[i];
#pragma unroll
    for (int i = 0; i < kNumbers; ++i) {
      reinterpret_cast<float*>(inputs[buffer])[(thread % 4 + 4 * i) * kRow + thread / 4] = numbers[i];
    }
  };

  float h[kOwn][4] = {};
  fetch(0);
  put_down(0);
  __syncthreads();
  for (int32_t begin = 0, buffer = 0; begin < features; begin += kInputs, buffer ^= 1) {
    const bool more = begin + kInputs < features;
    if (more) fetch(begin + kInputs);
    const int32_t count = features - begin < kInputs ? features - begin : kInputs;
#pragma unroll 4
    for (int32_t k = 0; k < count; ++k) {
      const float4 w = weights[buffer][k * (kNeurons / 4) + column];
      const float4 low = inputs[buffer][k * (kRow / 4) + 2 * group],
                   high = inputs[buffer][k * (kRow / 4) + 2 * group + 1];
      const float x[kOwn] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
      for (int s = 0; s < kOwn; ++s) {
        h[s][0] = h[s][0] + w.x * x[s];
        h[s][1] = h[s][1] + w.y * x[s];
        h[s][2] = h[s][2] + w.z * x[s];
        h[s][3] = h[s][3] + w.w * x[s];
      }
    }
    // The other buffer was read before the barrier that let everybody come here.
    if (more) put_down(buffer ^ 1);
    __syncthreads();
  }
  if (!real) return;
  const float4 bias = *reinterpret_cast<const float4*>(a.bias + at);
#pragma unroll
  for (int s = 0; s < kOwn; ++s) {
    const int64_t row = first + kOwn * group + s;
    if (row >= a.inputs.rows) break;
    float4 sum;
    sum.x = h[s][0] + bias.x;
    sum.y = h[s][1] + bias.y;
    sum.z = h[s][2] + bias.z;
    sum.w = h[s][3] + bias.w;
    *reinterpret_cast<float4*>(a.current + row * a.padded + at) = sum;
  }
}

}  // namespace

void current(const Current& a, void* stream) {
  launch("current", current_kernel, {blocks_for(a.inputs.rows, kSamples), blocks_for(a.padded, kNeurons)}, kThreads, 0,
         stream, a);
}

}  // namespace snnfast::cuda
