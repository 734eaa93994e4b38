// SPDX-License-Identifier: Apache-2.0
// How fast this machine does one thing at best: what benchmarks compare the kernels with.
#pragma once

#include <string>

#include "cpu/kernels.h"

namespace snnfast {

// Units per second of one core. `name`:
//   add           float additions, operands in registers
//   add_few       additions of up to four floats at once, operands in registers
//   mul_add       float multiplications each followed by an addition, rounded separately
//   step          neuron steps (add, compare, subtract, spikes as bits), many at a time
//   step_latency  neuron steps of one neuron, each waiting for the one before
//   add_memory    float additions with one operand from `bytes` of memory, read over and over
//   read          bytes read from `bytes` of memory
// Throws std::invalid_argument for an unknown name, or bytes out of range where they are needed.
double measure_ceiling(const std::string& name, int64_t bytes, const Kernels& kernels);

}  // namespace snnfast
