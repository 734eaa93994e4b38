// SPDX-License-Identifier: Apache-2.0
#define SNNFAST_ISA_NAME avx512
#include "cpu/kernels.inc"
