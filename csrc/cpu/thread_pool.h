// SPDX-License-Identifier: Apache-2.0
// A small pool of threads for loops over independent items. The caller works too, so n threads mean n - 1 workers.
// Which thread runs an item never matters for a result: every sum stays within one item.
#pragma once

#include <cstdint>

#include "cpu/kernels.h"

namespace snnfast {

// Runs item `i`; returns false to stop the loop early.
using ItemFunction = bool (*)(void* context, int64_t i);

// Run items 0 .. count - 1 on up to num_threads() threads; false if one of them asked to stop. While the caller waits
// for the others it polls `interrupt`, which is expected to make them stop. A loop that starts while another one is
// running, or within one, runs on its caller's thread alone; so does every loop if no thread can be started. Safe after
// fork: a child starts its own pool.
bool parallel_for(int64_t count, ItemFunction function, void* context, const Interrupt& interrupt);

int num_threads();
void set_num_threads(int n);  // n >= 1

// Loops that really used more than one thread, since the start: lets a test prove that the pool ran.
int64_t parallel_loops();

}  // namespace snnfast
