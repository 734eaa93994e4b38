// SPDX-License-Identifier: Apache-2.0
#define SNNFAST_ISA_NAME avx2
#include "cpu/kernels.inc"
