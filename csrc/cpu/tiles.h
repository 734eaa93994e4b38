// SPDX-License-Identifier: Apache-2.0
// Eight tiles of 16 rows of 64 bytes, and the product of bytes with signed bytes: Intel's AMX, or the same in plain
// C++, which gives the same integers, slowly. The latter is for comparison, so one instruction set has it: baseline.
#pragma once

#include <cstdint>

#include "cpu/simd.h"
#include "cpu/slices.h"

namespace snnfast {
namespace {

#if defined(SNNFAST_AMX)

constexpr bool kHasMatrixUnit = true, kHasTiles = true;
#define SNNFAST_BESIDE SNNFAST_ALWAYS  // of lambdas that run beside products

// The tiles of this thread, configured as long as this object lives: other libraries configure them otherwise. Written
// as assembler because the compilers' intrinsics do not say which memory they read.
class Tiles {
 public:
  Tiles() {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t bytes[16] = {};
      uint8_t rows[16] = {};
    } config;
    for (int i = 0; i < 8; ++i) {
      config.bytes[i] = 64;
      config.rows[i] = 16;
    }
    asm volatile("ldtilecfg (%0)" ::"r"(&config) : "memory");
  }
  ~Tiles() { asm volatile("tilerelease"); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;

  template <int I>
  SNNFAST_INLINE void zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(I));
  }
  template <int I>
  SNNFAST_INLINE void load(const void* from) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(int64_t{64}), "i"(I) : "memory");
  }
  template <int I>
  SNNFAST_INLINE void store(int32_t* to) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(int64_t{64}), "i"(I) : "memory");
  }
  // Tile I += tile 6 (bytes) times tile 7 (signed bytes).
  template <int I>
  SNNFAST_INLINE void multiply() {
    asm volatile("tdpbusd %%tmm7, %%tmm6, %%tmm%c0" ::"i"(I));
  }
};

#else

constexpr bool kHasMatrixUnit = false;
#define SNNFAST_BESIDE __attribute__((noinline))  // one copy for all its callers, as below
#if defined(SNNFAST_NO_TILES)
constexpr bool kHasTiles = false;
#else
constexpr bool kHasTiles = true;
#endif

class Tiles {
 public:
  template <int I>
  void zero() {
    __builtin_memset(tiles_[I], 0, kSliceBytes);
  }
  template <int I>
  void load(const void* from) {
    __builtin_memcpy(tiles_[I], from, kSliceBytes);
  }
  template <int I>
  void store(int32_t* to) {
    __builtin_memcpy(to, tiles_[I], kSliceBytes);
  }
  template <int I>
  void multiply() {
    add_products(tiles_[I], reinterpret_cast<const uint8_t*>(tiles_[6]), reinterpret_cast<const int8_t*>(tiles_[7]));
  }

 private:
  // One copy for all its callers: nobody uses it for its speed.
  __attribute__((noinline)) static void add_products(int32_t* sums, const uint8_t* bytes, const int8_t* digits) {
    for (int64_t row = 0; row < 16; ++row) {
      for (int64_t k = 0; k < 64; ++k) {
        const int32_t byte = bytes[row * 64 + k];
        if (byte == 0) continue;
        for (int64_t column = 0; column < 16; ++column) {
          sums[row * 16 + column] += byte * digits[(k / 4) * 64 + column * 4 + k % 4];
        }
      }
    }
  }

  alignas(64) int32_t tiles_[8][kSliceBytes / 4] = {};
};

#endif

// Whether neurons of every plain rule take their steps beside the products. Without a matrix unit nothing is gained, so
// only a test does that.
#if defined(SNNFAST_STEPS_BESIDE)
constexpr bool kStepsBeside = true;
#else
constexpr bool kStepsBeside = kHasMatrixUnit;
#endif

}  // namespace
}  // namespace snnfast
