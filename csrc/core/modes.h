// SPDX-License-Identifier: Apache-2.0
// How numbers become spikes and spikes become numbers. Documented in python/snnfast/spec.py.
#pragma once

namespace snnfast {

enum class Encoding { constant, equidistant, poisson };
enum class Decoding { potential, mean_potential, spikes, first_spike };

}  // namespace snnfast
