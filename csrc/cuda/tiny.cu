// SPDX-License-Identifier: Apache-2.0
// A small network whole: every thread takes a few samples through all layers and steps, with all state in registers and
// the weights as operands from constant memory (the kernel's own argument).
//
// Exact: a spike is 1 or 0, so spike * w is w or 0, and the fused multiply-add rounds only the sum.
#include "core/neuron.h"
#include "cuda/inputs.h"

namespace snnfast::cuda {
namespace {

constexpr int kThreads = 64;

// Samples of a thread. Fetching a weight from constant memory costs half an instruction, which two samples share; with
// the synaptic current of the delayed order there are no registers for a second one.
template <bool Delayed>
constexpr int kSamples = Delayed ? 1 : 2;

// Adds the weights of the inputs that spiked, inputs ascending, bias last.
template <int Samples, int Outputs>
__device__ __forceinline__ void sum(const float (&spikes)[Samples][kTinyWidth], const float* weights, const float* bias,
                                    float (&h)[Samples][Outputs]) {
#pragma unroll
  for (int k = 0; k < kTinyWidth; ++k) {
#pragma unroll
    for (int j = 0; j < Outputs; ++j) {
#pragma unroll
      for (int s = 0; s < Samples; ++s) {
        h[s][j] = __fmaf_rn(spikes[s][k], weights[k * Outputs + j], k == 0 ? 0.0f : h[s][j]);
      }
    }
  }
#pragma unroll
  for (int j = 0; j < Outputs; ++j) {
#pragma unroll
    for (int s = 0; s < Samples; ++s) h[s][j] = h[s][j] + bias[j];
  }
}

// Unit: the threshold is 1, so that what a spike subtracts is the spike itself. Not with Delayed.
template <bool Delayed, bool Unit, int Hidden, int Outputs>
__global__ void __launch_bounds__(kThreads) tiny_kernel(const __grid_constant__ Tiny a) {
  using Rule = NeuronRule<Delayed, Reset::subtraction, false, false>;
  using LastRule = NeuronRule<Delayed, Reset::none, false, false>;
  constexpr int S = kSamples<Delayed>;
  const NeuronConstants<float> constants{0.0f, 1.0f, Unit ? 1.0f : a.threshold};
  int64_t sample[S];
  bool real[S];
#pragma unroll
  for (int s = 0; s < S; ++s) {
    sample[s] = (int64_t{blockIdx.x} * S + s) * kThreads + threadIdx.x;
    real[s] = sample[s] < a.batch;
    if (!real[s]) sample[s] = a.batch - 1;  // computed once more, not written
  }

  float current[S][kTinyWidth] = {};
  for (int32_t k = 0; k < a.n_in; ++k) {
#pragma unroll
    for (int s = 0; s < S; ++s) {
      const float x = a.observations[sample[s] * a.n_in + k];
#pragma unroll
      for (int j = 0; j < kTinyWidth; ++j) current[s][j] = current[s][j] + a.first[k * kTinyWidth + j] * x;
    }
  }
  float mem[Hidden][S][kTinyWidth], syn[Hidden][S][kTinyWidth] = {};
#pragma unroll
  for (int s = 0; s < S; ++s) {
#pragma unroll
    for (int j = 0; j < kTinyWidth; ++j) {
      current[s][j] = current[s][j] + a.first_bias[j];
#pragma unroll
      for (int l = 0; l < Hidden; ++l) mem[l][s][j] = a.initial[l][j];
    }
  }
  float last_mem[S][Outputs] = {}, last_syn[S][Outputs] = {}, total[S][Outputs] = {};

  const int32_t timesteps = static_cast<int32_t>(a.timesteps);
#pragma unroll 1
  for (int32_t t = 0; t < timesteps; ++t) {
    float spikes[S][kTinyWidth];
    const auto fire = [&](int l, const float (&h)[S][kTinyWidth]) {
#pragma unroll
      for (int s = 0; s < S; ++s) {
#pragma unroll
        for (int j = 0; j < kTinyWidth; ++j) {
          spikes[s][j] = Rule::step(mem[l][s][j], syn[l][s][j], h[s][j], constants) ? 1.0f : 0.0f;
        }
      }
    };
    fire(0, current);
    if constexpr (Hidden == 2) {
      float h[S][kTinyWidth];
      sum(spikes, a.second, a.second_bias, h);
      fire(1, h);
    }
    float h[S][Outputs];
    sum(spikes, a.last, a.last_bias, h);
#pragma unroll
    for (int s = 0; s < S; ++s) {
#pragma unroll
      for (int j = 0; j < Outputs; ++j) {
        LastRule::step(last_mem[s][j], last_syn[s][j], h[s][j], constants);
        if (a.mean) total[s][j] = total[s][j] + last_mem[s][j];
      }
    }
  }

#pragma unroll
  for (int s = 0; s < S; ++s) {
    if (!real[s]) continue;
    float* output = a.output + sample[s] * a.n_out;
#pragma unroll
    for (int j = 0; j < Outputs; ++j) {
      if (j < a.n_out) output[j] = a.mean ? total[s][j] / static_cast<float>(a.timesteps) : last_mem[s][j];
    }
  }
}

template <bool Delayed, bool Unit, int Hidden, int Outputs>
void launch_tiny(const Tiny& a, void* stream) {
  launch("tiny", tiny_kernel<Delayed, Unit, Hidden, Outputs>, {blocks_for(a.batch, kThreads * kSamples<Delayed>), 1},
         kThreads, 0, stream, a);
}

template <bool Delayed, bool Unit, int Hidden>
void launch_outputs(const Tiny& a, void* stream) {
  constexpr bool usual = tiny_usual(Delayed, Unit ? 1.0f : 0.0f);
  switch (tiny_outputs(usual, a.n_out)) {
    case 2:
      if constexpr (usual) return launch_tiny<Delayed, Unit, Hidden, 2>(a, stream);
      [[fallthrough]];
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

}  // namespace

void tiny(const Tiny& a, void* stream) {
  if (tiny_usual(a.delayed, a.threshold)) {
    launch_hidden<false, true>(a, stream);
  } else {
    a.delayed ? launch_hidden<true, false>(a, stream) : launch_hidden<false, false>(a, stream);
  }
}

}  // namespace snnfast::cuda
