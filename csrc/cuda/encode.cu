// SPDX-License-Identifier: Apache-2.0
// Encoding by spikes: a warp takes 32 inputs of one sample through the steps of a tile.
#include "core/encoding.h"
#include "cuda/inputs.h"

namespace snnfast::cuda {
namespace {

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kThreads) encode_kernel(Encode a) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t warp = int64_t{blockIdx.x} * (kThreads / 32) + static_cast<int>(threadIdx.x) / 32;
  if (warp >= a.inputs.rows * a.bits.stride) return;
  const int64_t row = warp / a.bits.stride;
  const int32_t word = static_cast<int32_t>(warp % a.bits.stride), j = word * 32 + lane;
  const bool real = j < a.inputs.features;
  const float x = real ? encoded_input(a.inputs, row, j) : 0.0f;
  const uint64_t sample = a.first_sample + static_cast<uint64_t>(a.inputs.first_row + row);
  float* next_spike = a.next_spike + row * a.bits.stride * 32 + j;
  float* counts = a.counts && real ? a.counts + (a.inputs.first_row + row) * a.inputs.features + j : nullptr;
  float n = !a.poisson && a.t0 > 0 ? *next_spike : 1.0f;
  float count = counts && a.t0 > 0 ? *counts : 0.0f;
  for (int64_t t = 0; t < a.steps; ++t) {
    const int64_t now = a.t0 + t;
    bool spike;
    if (a.poisson) {
      const PhiloxBlock random = random_bits(a.seed, sample, static_cast<uint32_t>(now), static_cast<uint32_t>(j) / 4);
      const int i = j % 4;
      const uint32_t bits = i == 0   ? random.word[0]
                            : i == 1 ? random.word[1]
                            : i == 2 ? random.word[2]
                                     : random.word[3];
      spike = poisson_spike(x, bits);
    } else {
      spike = equidistant_spike(x, static_cast<float>(now), n);
    }
    spike = spike && real;
    if (spike) count += 1.0f;
    const uint32_t bits = __ballot_sync(kWholeWarp, spike);
    if (lane == 0) a.bits.words[(row * a.steps + t) * a.bits.stride + word] = bits;
  }
  if (!a.poisson) *next_spike = n;
  if (counts) *counts = count;
}

}  // namespace

void encode(const Encode& a, void* stream) {
  launch("encode", encode_kernel, {blocks_for(a.inputs.rows * a.bits.stride, kThreads / 32), 1}, kThreads, 0, stream,
         a);
}

}  // namespace snnfast::cuda
