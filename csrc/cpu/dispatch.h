// SPDX-License-Identifier: Apache-2.0
// Which kernels this machine can run, and which one does. Decided once; SNNFAST_ISA caps it, never silently.
#pragma once

#include <string>
#include <vector>

#include "cpu/kernels.h"

namespace snnfast {

// Best first; only those that the machine and its operating system support.
std::vector<const Kernels*> supported_kernels();

// The best supported kernels that are not above the cap.
const Kernels& default_kernels();

// Those, or the baseline where they lack the method "slices".
const Kernels& kernels_with_slices();

// Whether the processor packs bytes quickly (AVX-512 VBMI2).
bool packs_bytes();

// Whether it turns matrices of bits quickly (AVX-512 VBMI and GFNI).
bool turns_bits();

// Whether it needs an operation to spread a number in memory over 16 lanes, beside the load (AMD's Zen 4).
bool slow_broadcasts();

// Cap the instruction set from now on. Throws std::invalid_argument for a name that is unknown or unsupported here.
void cap_isa(const std::string& name);

// The kernels of one instruction set. Throws as cap_isa does.
const Kernels& kernels_for(const std::string& name);

}  // namespace snnfast
