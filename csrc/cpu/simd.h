// SPDX-License-Identifier: Apache-2.0
// A vector of floats as wide as the instruction set this file is compiled for, with the vocabulary of core/neuron.h.
// One source, compiled with other flags per instruction set; everything has internal linkage, since the linker must
// never pick an AVX copy of an inline function for a machine without AVX.
#pragma once

#include <stddef.h>

#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define SNNFAST_ALWAYS __attribute__((always_inline))  // of lambdas
#define SNNFAST_INLINE inline SNNFAST_ALWAYS

namespace snnfast {
namespace {

#if defined(__x86_64__) && defined(__AVX2__)
// Four floats, for layers of few outputs: what adding weights and the rule of neurons that never fire need.
struct Quad {
  static constexpr int lanes = 4;
  __m128 v;
};

SNNFAST_INLINE Quad operator+(Quad a, Quad b) { return {_mm_add_ps(a.v, b.v)}; }
SNNFAST_INLINE Quad operator*(Quad a, Quad b) { return {_mm_mul_ps(a.v, b.v)}; }
SNNFAST_INLINE Quad at_least(Quad a, Quad b) { return {_mm_cmpge_ps(a.v, b.v)}; }
SNNFAST_INLINE Quad above(Quad a, Quad b) { return {_mm_cmpgt_ps(a.v, b.v)}; }
SNNFAST_INLINE void store(float* p, Quad a) { _mm_storeu_ps(p, a.v); }
SNNFAST_INLINE Quad quad(float a, float b, float c, float d) { return {_mm_setr_ps(a, b, c, d)}; }
#endif

#if defined(__AVX512F__) && defined(__AVX512DQ__)

struct Vec {
  static constexpr int lanes = 16;
  __m512 v;
};
// A type of its own: functions of a plain number would not be found where the rule, which comes first, calls them.
struct Mask {
  __mmask16 m;
};

SNNFAST_INLINE Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
SNNFAST_INLINE void store(float* p, Vec a) { _mm512_storeu_ps(p, a.v); }
SNNFAST_INLINE Vec broadcast(float x) { return {_mm512_set1_ps(x)}; }
SNNFAST_INLINE Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
SNNFAST_INLINE Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
SNNFAST_INLINE Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
SNNFAST_INLINE Mask at_least(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ)}; }
SNNFAST_INLINE Mask above(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ)}; }
SNNFAST_INLINE Vec keep_where(Mask m, Vec a) { return {_mm512_maskz_mov_ps(m.m, a.v)}; }
SNNFAST_INLINE Vec clear_where(Mask m, Vec a) { return {_mm512_maskz_mov_ps(static_cast<__mmask16>(~m.m), a.v)}; }
SNNFAST_INLINE Vec subtract_where(Mask m, Vec a, Vec b) { return {_mm512_mask_sub_ps(a.v, m.m, a.v, b.v)}; }
SNNFAST_INLINE Vec choose(Mask m, Vec a, Vec b) { return {_mm512_mask_blend_ps(m.m, b.v, a.v)}; }
SNNFAST_INLINE Mask both(Mask a, Mask b) { return {static_cast<__mmask16>(a.m & b.m)}; }
SNNFAST_INLINE Vec larger(Vec a, Vec b) { return {_mm512_maskz_max_ps(0xFFFF, a.v, b.v)}; }
SNNFAST_INLINE Vec smaller(Vec a, Vec b) { return {_mm512_maskz_min_ps(0xFFFF, a.v, b.v)}; }
// The smaller one, of their bits as numbers without sign.
SNNFAST_INLINE Vec smaller_bits(Vec a, Vec b) {
  return {_mm512_castsi512_ps(_mm512_maskz_min_epu32(0xFFFF, _mm512_castps_si512(a.v), _mm512_castps_si512(b.v)))};
}
SNNFAST_INLINE Vec magnitude(Vec a) {
  return {_mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(a.v), _mm512_set1_epi32(0x7FFFFFFF)))};
}
SNNFAST_INLINE Vec sign_where(Mask m, Vec a) {
  const __m512i sign = _mm512_set1_epi32(INT32_MIN), one = _mm512_castps_si512(_mm512_set1_ps(1.0f));
  return {_mm512_castsi512_ps(_mm512_maskz_ternarylogic_epi32(m.m, _mm512_castps_si512(a.v), sign, one, 0xEA))};
}
SNNFAST_INLINE Vec multiply_add(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
// The one of the larger, or smaller, magnitude, without its sign.
SNNFAST_INLINE Vec larger_magnitude(Vec a, Vec b) { return {_mm512_maskz_range_ps(0xFFFF, a.v, b.v, 0b1011)}; }
SNNFAST_INLINE Vec smaller_magnitude(Vec a, Vec b) { return {_mm512_maskz_range_ps(0xFFFF, a.v, b.v, 0b1010)}; }
SNNFAST_INLINE Vec whole(Vec a) { return {_mm512_maskz_cvtepi32_ps(0xFFFF, _mm512_maskz_cvttps_epi32(0xFFFF, a.v))}; }
SNNFAST_INLINE Vec round_down(Vec a) {
  return {_mm512_maskz_roundscale_ps(0xFFFF, a.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)};
}
SNNFAST_INLINE uint32_t bits(Mask m) { return m.m; }
// The bits of vector v of a row.
SNNFAST_INLINE void store_bits(void* row, int v, Mask m) { _store_mask16(static_cast<__mmask16*>(row) + v, m.m); }
// Whole numbers of 32 bits. Sums and differences wrap, so those that fit are right whatever came between.
struct Integers {
  __m512i n;
};
SNNFAST_INLINE Integers load(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
SNNFAST_INLINE void store(int32_t* p, Integers a) { _mm512_storeu_si512(p, a.n); }
SNNFAST_INLINE Integers no_count() { return {_mm512_setzero_si512()}; }
SNNFAST_INLINE Integers count(Integers c, Mask m) {
  return {_mm512_mask_add_epi32(c.n, m.m, c.n, _mm512_set1_epi32(1))};
}
SNNFAST_INLINE Integers add_where(Mask m, Integers a, Integers b) {
  return {_mm512_mask_add_epi32(a.n, m.m, a.n, b.n)};
}
SNNFAST_INLINE Integers whole_number(int32_t n) { return {_mm512_set1_epi32(n)}; }
SNNFAST_INLINE Integers operator+(Integers a, Integers b) { return {_mm512_add_epi32(a.n, b.n)}; }
SNNFAST_INLINE Integers operator-(Integers a, Integers b) { return {_mm512_sub_epi32(a.n, b.n)}; }
SNNFAST_INLINE Integers shift_byte(Integers a) { return {_mm512_maskz_slli_epi32(0xFFFF, a.n, 8)}; }
// The lane of `from` that `which` names; where that is negative, the lane of `otherwise`.
SNNFAST_INLINE Vec pick_lanes(Integers which, Vec from, Vec otherwise) {
  const __mmask16 some = _mm512_cmpge_epi32_mask(which.n, _mm512_setzero_si512());
  return {_mm512_mask_permutexvar_ps(otherwise.v, some, which.n, from.v)};
}
// Integers, as floats. Zeroing forms with nothing to zero: of the plain ones gcc says that they read what is not there.
SNNFAST_INLINE Vec to_float(__m512i integers) { return {_mm512_maskz_cvtepi32_ps(0xFFFF, integers)}; }
SNNFAST_INLINE Vec to_float(const int32_t* p) { return to_float(_mm512_loadu_si512(p)); }
SNNFAST_INLINE Vec to_float(Integers c) { return to_float(c.n); }
SNNFAST_INLINE Vec bytes_to_float(const uint8_t* p) {
  return to_float(_mm512_maskz_cvtepu8_epi32(0xFFFF, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
// 256 high + low, which must fit, as a float.
SNNFAST_INLINE Vec to_float(const int32_t* high, const int32_t* low) {
  const __m512i shifted = _mm512_maskz_slli_epi32(0xFFFF, _mm512_loadu_si512(high), 8);
  return to_float(_mm512_add_epi32(shifted, _mm512_loadu_si512(low)));
}

#elif defined(__AVX2__)

struct Vec {
  static constexpr int lanes = 8;
  __m256 v;
};
struct Mask {
  __m256 m;
};

SNNFAST_INLINE Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
SNNFAST_INLINE void store(float* p, Vec a) { _mm256_storeu_ps(p, a.v); }
SNNFAST_INLINE Vec broadcast(float x) { return {_mm256_set1_ps(x)}; }
SNNFAST_INLINE Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
SNNFAST_INLINE Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
SNNFAST_INLINE Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
SNNFAST_INLINE Mask at_least(Vec a, Vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_GE_OQ)}; }
SNNFAST_INLINE Mask above(Vec a, Vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_GT_OQ)}; }
SNNFAST_INLINE Vec keep_where(Mask m, Vec a) { return {_mm256_and_ps(m.m, a.v)}; }
SNNFAST_INLINE Vec clear_where(Mask m, Vec a) { return {_mm256_andnot_ps(m.m, a.v)}; }
// The difference does not wait for the mask, and the neuron's chain of operations is that much shorter.
SNNFAST_INLINE Vec subtract_where(Mask m, Vec a, Vec b) { return {_mm256_blendv_ps(a.v, (a - b).v, m.m)}; }
SNNFAST_INLINE Vec choose(Mask m, Vec a, Vec b) { return {_mm256_blendv_ps(b.v, a.v, m.m)}; }
SNNFAST_INLINE Mask both(Mask a, Mask b) { return {_mm256_and_ps(a.m, b.m)}; }
SNNFAST_INLINE Vec larger(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }
SNNFAST_INLINE Vec smaller(Vec a, Vec b) { return {_mm256_min_ps(a.v, b.v)}; }
SNNFAST_INLINE Vec smaller_bits(Vec a, Vec b) {
  return {_mm256_castsi256_ps(_mm256_min_epu32(_mm256_castps_si256(a.v), _mm256_castps_si256(b.v)))};
}
SNNFAST_INLINE Vec magnitude(Vec a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }
SNNFAST_INLINE Vec sign_where(Mask m, Vec a) {
  return {_mm256_and_ps(m.m, _mm256_or_ps(_mm256_and_ps(a.v, _mm256_set1_ps(-0.0f)), _mm256_set1_ps(1.0f)))};
}
SNNFAST_INLINE Vec multiply_add(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
SNNFAST_INLINE Vec whole(Vec a) { return {_mm256_cvtepi32_ps(_mm256_cvttps_epi32(a.v))}; }
SNNFAST_INLINE Vec round_down(Vec a) { return {_mm256_floor_ps(a.v)}; }
SNNFAST_INLINE uint32_t bits(Mask m) { return static_cast<uint32_t>(_mm256_movemask_ps(m.m)); }
SNNFAST_INLINE void store_bits(void* row, int v, Mask m) {
  static_cast<uint8_t*>(row)[v] = static_cast<uint8_t>(bits(m));
}
struct Integers {
  __m256i n;
};
SNNFAST_INLINE Integers load(const int32_t* p) { return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))}; }
SNNFAST_INLINE void store(int32_t* p, Integers a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a.n); }
SNNFAST_INLINE Integers no_count() { return {_mm256_setzero_si256()}; }
// A mask that is set is -1.
SNNFAST_INLINE Integers count(Integers c, Mask m) { return {_mm256_sub_epi32(c.n, _mm256_castps_si256(m.m))}; }
SNNFAST_INLINE Integers add_where(Mask m, Integers a, Integers b) {
  return {_mm256_add_epi32(a.n, _mm256_and_si256(_mm256_castps_si256(m.m), b.n))};
}
SNNFAST_INLINE Integers whole_number(int32_t n) { return {_mm256_set1_epi32(n)}; }
SNNFAST_INLINE Integers operator+(Integers a, Integers b) { return {_mm256_add_epi32(a.n, b.n)}; }
SNNFAST_INLINE Integers operator-(Integers a, Integers b) { return {_mm256_sub_epi32(a.n, b.n)}; }
SNNFAST_INLINE Integers shift_byte(Integers a) { return {_mm256_slli_epi32(a.n, 8)}; }
SNNFAST_INLINE Vec pick_lanes(Integers which, Vec from, Vec otherwise) {
  return {_mm256_blendv_ps(_mm256_permutevar8x32_ps(from.v, which.n), otherwise.v, _mm256_castsi256_ps(which.n))};
}
SNNFAST_INLINE Vec to_float(Integers c) { return {_mm256_cvtepi32_ps(c.n)}; }
SNNFAST_INLINE Vec to_float(const int32_t* p) { return to_float(load(p)); }
SNNFAST_INLINE Vec bytes_to_float(const uint8_t* p) {
  return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))))};
}
SNNFAST_INLINE Vec to_float(const int32_t* high, const int32_t* low) {
  return to_float(Integers{_mm256_slli_epi32(load(high).n, 8)} + load(low));
}

#else  // any machine: four lanes of the compiler's own vector type (SSE2 on x86-64, NEON on ARM)

typedef float Float4 __attribute__((vector_size(16)));
typedef int32_t Int4 __attribute__((vector_size(16)));
typedef uint32_t Word4 __attribute__((vector_size(16)));

struct Vec {
  static constexpr int lanes = 4;
  Float4 v;
};
struct Mask {
  Int4 m;
};

SNNFAST_INLINE Vec load(const float* p) {
  Vec a;
  __builtin_memcpy(&a.v, p, sizeof a.v);
  return a;
}
SNNFAST_INLINE void store(float* p, Vec a) { __builtin_memcpy(p, &a.v, sizeof a.v); }
SNNFAST_INLINE Vec broadcast(float x) { return {Float4{x, x, x, x}}; }
SNNFAST_INLINE Vec operator+(Vec a, Vec b) { return {a.v + b.v}; }
SNNFAST_INLINE Vec operator-(Vec a, Vec b) { return {a.v - b.v}; }
SNNFAST_INLINE Vec operator*(Vec a, Vec b) { return {a.v * b.v}; }
SNNFAST_INLINE Mask at_least(Vec a, Vec b) { return {a.v >= b.v}; }
SNNFAST_INLINE Mask above(Vec a, Vec b) { return {a.v > b.v}; }
SNNFAST_INLINE Vec keep_where(Mask m, Vec a) { return {(Float4)(m.m & (Int4)a.v)}; }
SNNFAST_INLINE Vec clear_where(Mask m, Vec a) { return {(Float4)(~m.m & (Int4)a.v)}; }
// x - 0 is x for every x, so lanes outside the mask keep their bits.
SNNFAST_INLINE Vec subtract_where(Mask m, Vec a, Vec b) { return a - keep_where(m, b); }
SNNFAST_INLINE Vec choose(Mask m, Vec a, Vec b) { return {(Float4)((m.m & (Int4)a.v) | (~m.m & (Int4)b.v))}; }
SNNFAST_INLINE Mask both(Mask a, Mask b) { return {a.m & b.m}; }
SNNFAST_INLINE Vec larger(Vec a, Vec b) { return choose(above(a, b), a, b); }
SNNFAST_INLINE Vec smaller(Vec a, Vec b) { return choose(above(b, a), a, b); }
SNNFAST_INLINE Vec magnitude(Vec a) { return {(Float4)((Int4)a.v & 0x7FFFFFFF)}; }
SNNFAST_INLINE Vec sign_where(Mask m, Vec a) {
  return {(Float4)(m.m & (((Int4)a.v & INT32_MIN) | (Int4)broadcast(1.0f).v))};
}
SNNFAST_INLINE Vec multiply_add(Vec a, Vec b, Vec c) { return a * b + c; }
SNNFAST_INLINE Vec whole(Vec a) { return {__builtin_convertvector(__builtin_convertvector(a.v, Int4), Float4)}; }
SNNFAST_INLINE Vec round_down(Vec a) { return whole(a) - keep_where(above(whole(a), a), broadcast(1.0f)); }
SNNFAST_INLINE uint32_t bits(Mask m) {
#if defined(__SSE2__)
  return static_cast<uint32_t>(_mm_movemask_ps((__m128)m.m));
#else
  return (m.m[0] & 1u) | (m.m[1] & 2u) | (m.m[2] & 4u) | (m.m[3] & 8u);
#endif
}
// Half a byte each, ascending: an odd vector's follow those of the one before.
SNNFAST_INLINE void store_bits(void* row, int v, Mask m) {
  uint8_t* const byte = static_cast<uint8_t*>(row) + v / 2;
  *byte = static_cast<uint8_t>(v % 2 ? *byte | bits(m) << 4 : bits(m));
}
struct Integers {
  Int4 n;
};
SNNFAST_INLINE Integers load(const int32_t* p) {
  Integers a;
  __builtin_memcpy(&a.n, p, sizeof a.n);
  return a;
}
SNNFAST_INLINE void store(int32_t* p, Integers a) { __builtin_memcpy(p, &a.n, sizeof a.n); }
SNNFAST_INLINE Integers no_count() { return {Int4{0, 0, 0, 0}}; }
SNNFAST_INLINE Integers count(Integers c, Mask m) { return {c.n - m.m}; }
SNNFAST_INLINE Integers add_where(Mask m, Integers a, Integers b) { return {a.n + (m.m & b.n)}; }
SNNFAST_INLINE Integers whole_number(int32_t n) { return {Int4{n, n, n, n}}; }
// By way of numbers without sign: those wrap.
SNNFAST_INLINE Integers operator+(Integers a, Integers b) { return {(Int4)((Word4)a.n + (Word4)b.n)}; }
SNNFAST_INLINE Integers operator-(Integers a, Integers b) { return {(Int4)((Word4)a.n - (Word4)b.n)}; }
SNNFAST_INLINE Integers shift_byte(Integers a) { return {(Int4)((Word4)a.n << 8)}; }
SNNFAST_INLINE Vec pick_lanes(Integers which, Vec from, Vec otherwise) {
  for (int i = 0; i < Vec::lanes; ++i) {
    if (which.n[i] >= 0) otherwise.v[i] = from.v[which.n[i]];
  }
  return otherwise;
}
SNNFAST_INLINE Vec to_float(Integers c) { return {__builtin_convertvector(c.n, Float4)}; }
SNNFAST_INLINE Vec to_float(const int32_t* p) {
  return {
      Float4{static_cast<float>(p[0]), static_cast<float>(p[1]), static_cast<float>(p[2]), static_cast<float>(p[3])}};
}
SNNFAST_INLINE Vec bytes_to_float(const uint8_t* p) {
  return {
      Float4{static_cast<float>(p[0]), static_cast<float>(p[1]), static_cast<float>(p[2]), static_cast<float>(p[3])}};
}
SNNFAST_INLINE Vec to_float(const int32_t* high, const int32_t* low) {
  const int32_t sums[4] = {256 * high[0] + low[0], 256 * high[1] + low[1], 256 * high[2] + low[2],
                           256 * high[3] + low[3]};
  return to_float(sums);
}
using Quad = Vec;
SNNFAST_INLINE Quad quad(float a, float b, float c, float d) { return {Float4{a, b, c, d}}; }

#endif

#if defined(__AVX512F__) && defined(__AVX512DQ__)
// A Vec that subtracts by a fused multiply-add: a times 1 less b, rounded once, is a - b. AMD's Zen 4 adds and
// subtracts in other units than it multiplies and compares in, and has as many of each: when every other neuron
// subtracts in those that multiply, both are busy to the end.
struct FusedVec : Vec {
  FusedVec() = default;
  SNNFAST_INLINE FusedVec(Vec a) : Vec{a} {}
};
SNNFAST_INLINE FusedVec subtract_where(Mask m, FusedVec a, FusedVec b) {
  return Vec{_mm512_mask_fmsub_ps(a.v, m.m, _mm512_set1_ps(1.0f), b.v)};
}
#else
using FusedVec = Vec;
#endif

#if defined(__AVX2__)
// A Vec for chains of steps, which wait for every operation in turn. A neuron that has reached its threshold has two
// numbers to go on with, a and a - b. As bits without sign, what it goes on with is the smaller one: where a >= b,
// a - b is not negative and at most a; elsewhere a - b is negative, so larger than every positive a, and larger than a
// negative one, being further from zero. (Not a number: both are the same.) So nothing waits for a comparison.
struct EagerVec : Vec {
  EagerVec() = default;
  SNNFAST_INLINE EagerVec(Vec a) : Vec{a} {}
};
SNNFAST_INLINE EagerVec subtract_reached(Mask, EagerVec a, EagerVec b) { return smaller_bits(a, Vec{a} - Vec{b}); }
#else
using EagerVec = Vec;  // nearly as quick by itself
#endif

#if !(defined(__AVX512F__) && defined(__AVX512DQ__))
SNNFAST_INLINE Vec larger_magnitude(Vec a, Vec b) { return larger(magnitude(a), magnitude(b)); }
SNNFAST_INLINE Vec smaller_magnitude(Vec a, Vec b) { return smaller(magnitude(a), magnitude(b)); }
#endif

// load and broadcast by the type they return.
template <class V>
SNNFAST_INLINE V load_as(const float* p) {
  return load(p);
}
template <class V>
SNNFAST_INLINE V broadcast_as(float x) {
  return broadcast(x);
}

// With zeros in the lanes that it has not got.
SNNFAST_INLINE Vec widen(Vec a) { return a; }
#if defined(__AVX512F__) && defined(__AVX512DQ__)
SNNFAST_INLINE Vec widen(Quad a) { return {_mm512_maskz_broadcast_f32x4(0xF, a.v)}; }
#endif
#if defined(__x86_64__) && defined(__AVX2__)
template <>
SNNFAST_INLINE Quad load_as<Quad>(const float* p) {
  return {_mm_loadu_ps(p)};
}
template <>
SNNFAST_INLINE Quad broadcast_as<Quad>(float x) {
  return {_mm_set1_ps(x)};
}
#endif

}  // namespace
}  // namespace snnfast
