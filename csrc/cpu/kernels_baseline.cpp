// SPDX-License-Identifier: Apache-2.0
#define SNNFAST_ISA_NAME baseline
#include "cpu/kernels.inc"
