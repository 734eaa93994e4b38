// SPDX-License-Identifier: Apache-2.0
// A small network whole: every thread takes one sample through all layers and steps, with all state in registers and
// the weights as operands from constant memory (the kernel's own argument).
//
// Exact: a spike is 1 or 0, so spike * w is w or 0, and the fused multiply-add rounds only the sum.
#include "core/neuron.h"
#include "cuda/inputs.h"

namespace snnfast::cuda {
namespace {

constexpr int kThreads = 128;

// Adds the weights of the inputs that spiked, inputs ascending, bias last.
template <int Outputs>
__device__ __forceinline__ void sum(const float (&spikes)[kTinyWidth], const float* weights, const float* bias,
                                    float (&h)[Outputs]) {
#pragma unroll
  for (int j = 0; j < Outputs; ++j) h[j] = 0.0f;
#pragma unroll
  for (int k = 0; k < kTinyWidth; ++k) {
#pragma unroll
    for (int j = 0; j < Outputs; ++j) h[j] = __fmaf_rn(spikes[k], weights[k * Outputs + j], h[j]);
  }
#pragma unroll
  for (int j = 0; j < Outputs; ++j) h[j] = h[j] + bias[j];
}

// Unit: the threshold is 1, so that what a spike subtracts is the spike itself.
template <bool Delayed, bool Unit, int Hidden, int Outputs>
__global__ void __launch_bounds__(kThreads) tiny_kernel(const __grid_constant__ Tiny a) {
  using Rule = NeuronRule<Delayed, Reset::subtraction, false, false>;
  using LastRule = NeuronRule<Delayed, Reset::none, false, false>;
  const int64_t sample = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (sample >= a.batch) return;
  const NeuronConstants<float> constants{0.0f, 1.0f, Unit ? 1.0f : a.threshold};

  float current[kTinyWidth] = {};
  for (int32_t k = 0; k < a.n_in; ++k) {
    const float x = a.observations[sample * a.n_in + k];
#pragma unroll
    for (int j = 0; j < kTinyWidth; ++j) current[j] = current[j] + a.first[k * kTinyWidth + j] * x;
  }
  float mem[Hidden][kTinyWidth], syn[Hidden][kTinyWidth] = {};
#pragma unroll
  for (int j = 0; j < kTinyWidth; ++j) {
    current[j] = current[j] + a.first_bias[j];
#pragma unroll
    for (int l = 0; l < Hidden; ++l) mem[l][j] = a.initial[l][j];
  }
  float last_mem[Outputs] = {}, last_syn[Outputs] = {}, total[Outputs] = {};

#pragma unroll 1
  for (int64_t t = 0; t < a.timesteps; ++t) {
    float spikes[kTinyWidth];
#pragma unroll
    for (int j = 0; j < kTinyWidth; ++j) {
      spikes[j] = Rule::step(mem[0][j], syn[0][j], current[j], constants) ? 1.0f : 0.0f;
    }
    if constexpr (Hidden == 2) {
      float h[kTinyWidth];
      sum(spikes, a.second, a.second_bias, h);
#pragma unroll
      for (int j = 0; j < kTinyWidth; ++j) {
        spikes[j] = Rule::step(mem[1][j], syn[1][j], h[j], constants) ? 1.0f : 0.0f;
      }
    }
    float h[Outputs];
    sum(spikes, a.last, a.last_bias, h);
#pragma unroll
    for (int j = 0; j < Outputs; ++j) LastRule::step(last_mem[j], last_syn[j], h[j], constants);
    if (a.mean) {
#pragma unroll
      for (int j = 0; j < Outputs; ++j) total[j] = total[j] + last_mem[j];
    }
  }

  float* output = a.output + sample * a.n_out;
#pragma unroll
  for (int j = 0; j < Outputs; ++j) {
    if (j < a.n_out) output[j] = a.mean ? total[j] / static_cast<float>(a.timesteps) : last_mem[j];
  }
}

template <bool Delayed, bool Unit, int Hidden, int Outputs>
void launch_tiny(const Tiny& a, void* stream) {
  launch("tiny", tiny_kernel<Delayed, Unit, Hidden, Outputs>, {blocks_for(a.batch, kThreads), 1}, kThreads, 0, stream,
         a);
}

template <bool Delayed, bool Unit, int Hidden>
void launch_outputs(const Tiny& a, void* stream) {
  switch (tiny_outputs(a.n_out)) {
    case 2:
      return launch_tiny<Delayed, Unit, Hidden, 2>(a, stream);
    case 4:
      return launch_tiny<Delayed, Unit, Hidden, 4>(a, stream);
    default:
      return launch_tiny<Delayed, Unit, Hidden, kTinyWidth>(a, stream);
  }
}

template <bool Delayed, bool Unit>
void launch_hidden(const Tiny& a, void* stream) {
  a.hidden == 1 ? launch_outputs<Delayed, Unit, 1>(a, stream) : launch_outputs<Delayed, Unit, 2>(a, stream);
}

template <bool Delayed>
void launch_unit(const Tiny& a, void* stream) {
  a.threshold == 1.0f ? launch_hidden<Delayed, true>(a, stream) : launch_hidden<Delayed, false>(a, stream);
}

}  // namespace

void tiny(const Tiny& a, void* stream) { a.delayed ? launch_unit<true>(a, stream) : launch_unit<false>(a, stream); }

}  // namespace snnfast::cuda
