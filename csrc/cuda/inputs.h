// SPDX-License-Identifier: Apache-2.0
// One number that is to be encoded, where spikes lie, and small helpers that several kernels share.
#pragma once

#include "cuda/kernels.h"
#include "cuda/platform.h"

namespace snnfast::cuda {
namespace {

__device__ __forceinline__ float encoded_input(const Inputs& in, int64_t row, int32_t j) {
  const int32_t plain = in.n_in + (in.bias ? 1 : 0);
  const int32_t at = j < plain ? j : j - plain;
  const float value = at < in.n_in ? in.observations[(in.first_row + row) * in.n_in + at] : 1.0f;
  if (!in.split) return value;
  if (j < plain) return value > 0.0f ? value : 0.0f;
  return value < 0.0f ? -value : 0.0f;
}

// Where a word of spikes lies; `steps`: of the tile.
__device__ __forceinline__ int64_t word_index(const Bits& bits, int64_t row, int64_t t, int64_t steps, int32_t word) {
  if (!bits.tiled) return (row * steps + t) * bits.stride + word;
  return ((row / 16 * steps + t) * (bits.stride / 4) + word / 4) * kTiledWords + row % 16 * 4 + word % 4;
}

// From a word to the same one a step later.
__device__ __forceinline__ int32_t step_words(const Bits& bits) { return bits.tiled ? 16 * bits.stride : bits.stride; }

constexpr int64_t blocks_for(int64_t count, int64_t per_block) { return (count + per_block - 1) / per_block; }

}  // namespace
}  // namespace snnfast::cuda
