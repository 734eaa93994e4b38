// SPDX-License-Identifier: Apache-2.0
#define SNNFAST_ISA_NAME amx
#define SNNFAST_AMX
#include "cpu/kernels.inc"
