// SPDX-License-Identifier: Apache-2.0
// One layer by slices, as plain memory: what scan.cpp, compiled once per instruction set, runs.
#pragma once

#include <cstdint>

#include "cpu/slices.h"

namespace snnfast {

struct SliceCase {
  float alpha, beta, threshold;
  bool delayed, reset_to_zero, fires;
  const SliceView* slices;
  const uint8_t* bytes;
  int64_t samples, steps, n_out, padded;
  float *mem, *syn;   // (samples, padded)
  float* total;       // the same, or null
  char* spike_bits;   // (samples, steps, bits_stride)
  float* potentials;  // (steps, samples, n_out), or null
  int64_t bits_stride;
};

void scan_baseline(const SliceCase& c);
void scan_avx2(const SliceCase& c);
void scan_avx512(const SliceCase& c);

}  // namespace snnfast
