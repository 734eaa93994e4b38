// SPDX-License-Identifier: Apache-2.0
// CUDA on the host, as far as our kernels need it: every thread of a block is a fiber, blocks run one after the other.
// Barriers and warp functions switch to the next fiber until all have arrived, so kernels run unchanged; shared memory
// is allocated to the byte, so a sanitizer sees every access beyond it. What it cannot show: races, and timing.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(...)
#define __grid_constant__

struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  uint32_t x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};

namespace emulation {

struct Index {
  unsigned x, y;
};
extern Index thread_index, block_index, block_size;

// Run a block of threads; `body` is the kernel with its arguments.
void run_block(int threads, size_t shared_bytes, const std::function<void()>& body);
void barrier();
// Give a value to the other threads of the warp; returns all 32. Every thread of the warp must take part.
const uint32_t* exchange(uint32_t value);
void* shared_memory();

}  // namespace emulation

#define threadIdx emulation::thread_index
#define blockIdx emulation::block_index
#define blockDim emulation::block_size

inline void __syncthreads() { emulation::barrier(); }

inline uint32_t __ballot_sync(unsigned, bool predicate) {
  const uint32_t* values = emulation::exchange(predicate);
  uint32_t bits = 0;
  for (int i = 0; i < 32; ++i) bits |= values[i] << i;
  return bits;
}

// Whatever has four bytes, as bits and back.
template <class T>
uint32_t to_bits(T value) {
  static_assert(sizeof(T) == 4);
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}
template <class T>
T from_bits(uint32_t bits) {
  T value;
  std::memcpy(&value, &bits, 4);
  return value;
}

template <class T>
T __shfl_sync(unsigned, T value, int source, int width) {
  const uint32_t* values = emulation::exchange(to_bits(value));
  const int lane = static_cast<int>(threadIdx.x) % 32;
  return from_bits<T>(values[lane / width * width + source % width]);
}

template <class T>
T __shfl_up_sync(unsigned, T value, unsigned distance, int width) {
  const uint32_t* values = emulation::exchange(to_bits(value));
  const int lane = static_cast<int>(threadIdx.x) % 32, from = lane - static_cast<int>(distance);
  return from_bits<T>(values[from < lane / width * width ? lane : from]);
}

template <class T>
T __shfl_xor_sync(unsigned, T value, int mask, int) {
  const uint32_t* values = emulation::exchange(to_bits(value));
  return from_bits<T>(values[static_cast<int>(threadIdx.x) % 32 ^ mask]);
}

inline void __syncwarp() { emulation::exchange(0); }

inline int __popc(uint32_t x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline int32_t __float_as_int(float value) { return static_cast<int32_t>(to_bits(value)); }
inline float __int_as_float(int32_t bits) { return from_bits<float>(static_cast<uint32_t>(bits)); }

namespace snnfast::cuda {

// What mma.m16n8k32 does with bytes, as the PTX manual says which thread holds which.
inline void add_products(int32_t (&sums)[4], const uint32_t (&bytes)[4], uint32_t first, uint32_t second) {
  uint32_t rows[4][32], columns[2][32];
  for (int i = 0; i < 4; ++i) std::memcpy(rows[i], emulation::exchange(bytes[i]), sizeof rows[i]);
  std::memcpy(columns[0], emulation::exchange(first), sizeof columns[0]);
  std::memcpy(columns[1], emulation::exchange(second), sizeof columns[1]);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
    for (int k = 0; k < 32; ++k) {
      const int held = k % 16 / 4, shift = k % 4 * 8;  // by which thread of the quad, at which byte
      const auto byte = rows[row / 8 + k / 16 * 2][row % 8 * 4 + held] >> shift & 255u;
      const auto digit = static_cast<int8_t>(columns[k / 16][column * 4 + held] >> shift & 255u);
      sums[i] += static_cast<int32_t>(byte) * digit;
    }
  }
}

template <class T>
T* dynamic_shared() {
  return static_cast<T*>(emulation::shared_memory());
}

template <class... P, class... A>
void launch(const char*, void (*kernel)(P...), Grid grid, int threads, size_t shared, void*, const A&... arguments) {
  for (int64_t y = 0; y < grid.y; ++y) {
    for (int64_t x = 0; x < grid.x; ++x) {
      emulation::block_index = {static_cast<unsigned>(x), static_cast<unsigned>(y)};
      emulation::run_block(threads, shared, [&] { kernel(arguments...); });
    }
  }
}

}  // namespace snnfast::cuda
