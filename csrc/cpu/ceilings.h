// SPDX-License-Identifier: Apache-2.0
// Loops that do one thing as fast as this machine can, for benchmarks to say how near the kernels come. Compiled per
// instruction set like the kernels; measure_ceiling.cpp takes the time.
#pragma once

#include "core/neuron.h"
#include "cpu/kernels.h"
#include "cpu/simd.h"
#include "cpu/tiles.h"

namespace snnfast {
namespace {

// Independent chains: latency times throughput (4 cycles, 2 per cycle) needs 8; 12 leave registers for the operands.
constexpr int kChains = 12;

// Make the compiler believe that a vector is read and changed here, at no cost.
template <class V>
SNNFAST_INLINE void opaque(V& a) {
#if defined(__AVX512F__) && defined(__AVX512DQ__)
  __asm__ volatile("" : "+v"(a.v));
#elif defined(__SSE__)
  __asm__ volatile("" : "+x"(a.v));
#elif defined(__aarch64__)
  __asm__ volatile("" : "+w"(a.v));
#else
  __asm__ volatile("" : : "r"(&a) : "memory");
#endif
}

// Rounds over registers alone: op(chain, its number) is done kChains times in every round.
template <class V = Vec, class Op>
SNNFAST_INLINE void over_chains(int64_t rounds, Op&& op) {
  V chain[kChains];
#pragma GCC unroll 16
  for (int i = 0; i < kChains; ++i) chain[i] = broadcast_as<V>(0.25f);
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) {
      op(chain[i], i);
      opaque(chain[i]);
    }
  }
}

// Passes over memory: op(chain, vector) is done once for every vector of it.
template <class Op>
SNNFAST_INLINE void over_memory(const float* memory, int64_t floats, int64_t rounds, Op&& op) {
  constexpr int chains = 8;
  Vec chain[chains];
#pragma GCC unroll 8
  for (int i = 0; i < chains; ++i) chain[i] = broadcast(0.0f);
  for (int64_t r = 0; r < rounds; ++r) {
    for (const float* p = memory; p != memory + floats; p += chains * Vec::lanes) {
#pragma GCC unroll 8
      for (int i = 0; i < chains; ++i) op(chain[i], load(p + i * Vec::lanes));
    }
#pragma GCC unroll 8
    for (int i = 0; i < chains; ++i) opaque(chain[i]);
  }
}

using CeilingRule = NeuronRule<false, Reset::subtraction, false, false>;

// Units done: float operations, neuron steps or bytes, as the names in kernels.h say. `floats` is a multiple of
// kCeilingFloats.
double ceiling_loop(Ceiling what, const float* memory, int64_t floats, int64_t rounds) {
  const double in_chains = static_cast<double>(rounds) * kChains * Vec::lanes;
  const double in_memory = static_cast<double>(rounds) * static_cast<double>(floats);
  // Unknown to the compiler, so that nothing is computed beforehand. Potentials pass the threshold now and then.
  Vec x = broadcast(0.125f), y = broadcast(0.5f);
  opaque(x);
  opaque(y);
  const NeuronConstants<Vec> constants{x, x, broadcast(1.0f)};
  switch (what) {
    case Ceiling::add:
      over_chains(rounds, [x](Vec& a, int) { a = a + x; });
      return in_chains;
    case Ceiling::add_few: {
      Quad few = broadcast_as<Quad>(0.125f);
      opaque(few);
      over_chains<Quad>(rounds, [few](Quad& a, int) { a = a + few; });
      return static_cast<double>(rounds) * kChains;
    }
    case Ceiling::mul_add:
      over_chains(rounds, [x, y](Vec& a, int) { a = a * y + x; });
      return in_chains;
    case Ceiling::step: {
      uint32_t any = 0;
      // As the kernels do it: neighbours subtract in different ways, see FusedVec.
      over_chains(rounds, [&](Vec& mem, int i) {
        Vec syn = x;
        if (i & 1) {
          FusedVec m = mem, s = x;
          any |= bits(CeilingRule::step<FusedVec>(m, s, x, {x, x, constants.threshold}));
          mem = m;
        } else {
          any |= bits(CeilingRule::step(mem, syn, x, constants));
        }
      });
      __asm__ volatile("" : : "r"(any));
      return in_chains;
    }
    case Ceiling::step_latency: {
      EagerVec mem = y, syn = x;
      for (int64_t r = 0; r < rounds; ++r) {
        CeilingRule::step<EagerVec>(mem, syn, x, {x, x, constants.threshold});
        opaque(mem);
      }
      return static_cast<double>(rounds);
    }
    case Ceiling::add_memory:
      over_memory(memory, floats, rounds, [](Vec& a, Vec b) { a = a + b; });
      return in_memory;
    case Ceiling::read:
      over_memory(memory, floats, rounds, [](Vec&, Vec b) { opaque(b); });
      return in_memory * sizeof(float);
    case Ceiling::matrix: {
      Tiles tiles;
      alignas(64) int8_t zeros[kSliceBytes] = {};
      tiles.template load<6>(zeros);
      tiles.template load<7>(zeros);
      for (int64_t r = 0; r < rounds; ++r) {
        tiles.template multiply<0>();
        tiles.template multiply<1>();
        tiles.template multiply<2>();
        tiles.template multiply<3>();
      }
      return static_cast<double>(rounds) * 4.0 * static_cast<double>(kSliceRows * kSliceBytes);
    }
  }
  return 0.0;
}

}  // namespace
}  // namespace snnfast
