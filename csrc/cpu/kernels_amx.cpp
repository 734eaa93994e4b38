// SPDX-License-Identifier: Apache-2.0
// AMX adds products of matrices to AVX-512. Only layers have a use for them; everything else is AVX-512's own.
#define SNNFAST_AMX
#include "cpu/ceilings.h"
#include "cpu/kernels.h"
#include "cpu/run_layers.h"

namespace snnfast {
namespace {

int64_t avx512_tables_scratch_bytes(const NetworkView& net) { return kernels_avx512.tables_scratch_bytes(net); }

bool avx512_tables(const NetworkView& net, const Request& request, int64_t first, int64_t count, char* scratch,
                   const Interrupt& interrupt) {
  return kernels_avx512.run_tables(net, request, first, count, scratch, interrupt);
}

int64_t avx512_coded_scratch_bytes(const NetworkView& net) { return kernels_avx512.coded_scratch_bytes(net); }

bool avx512_coded(const NetworkView& net, const Request& request, int64_t first, int64_t count, char* scratch,
                  const Interrupt& interrupt) {
  return kernels_avx512.run_coded(net, request, first, count, scratch, interrupt);
}

bool avx512_if_forward(const float* current, float* membrane, float* spikes, int64_t steps, int64_t width,
                       int64_t first, int64_t last, float threshold, bool delayed, const Interrupt& interrupt) {
  return kernels_avx512.if_forward(current, membrane, spikes, steps, width, first, last, threshold, delayed, interrupt);
}

}  // namespace

extern const Kernels kernels_amx = {
    "amx",
    Vec::lanes,
    kPanel,
    kRow,
    kMostRows,
    kSumRow,
    kHasTiles,
    kHasMatrixUnit,
    layers_scratch_bytes,
    run_layers,
    avx512_tables_scratch_bytes,
    avx512_tables,
    avx512_coded_scratch_bytes,
    avx512_coded,
    avx512_if_forward,
    ceiling_loop,
};

}  // namespace snnfast
