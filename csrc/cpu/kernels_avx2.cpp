// SPDX-License-Identifier: Apache-2.0
#define SNNFAST_ISA_NAME avx2
#define SNNFAST_NO_TILES
#include "cpu/kernels.inc"
