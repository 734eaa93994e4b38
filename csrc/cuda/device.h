// SPDX-License-Identifier: Apache-2.0
// What the kernels run on. Asking for versions needs no driver.
#pragma once

#include "cuda/plan.h"

namespace snnfast::cuda {

// As CUDA counts: 13000 is 13.0. `driver` is the newest CUDA that the driver can run, 0 if there is no driver.
struct Versions {
  int compiled, driver;
};
Versions versions();

// Of the current device, whose index it is. Throws std::runtime_error if there is no such device, or no code for it.
Device limits(int index);

}  // namespace snnfast::cuda
