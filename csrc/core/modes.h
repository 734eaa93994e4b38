// SPDX-License-Identifier: Apache-2.0
// How numbers become spikes and spikes become numbers. Documented in python/snnfast/spec/.
#pragma once

namespace snnfast {

enum class Encoding { constant, equidistant, poisson };
enum class Decoding { potential, mean_potential, parabolic_potential, spikes, first_spike };
enum class CodeKind { none, rate, staged, radix, digits };
enum class ExitKind { none, calibrated, certified };

// Digits, certified: the activation of a last hidden neuron up to which rounding is taken. (Those of other layers are
// at most 1, or cut off.) MOST_ACTIVATION of python/snnfast/spec/certificate.py.
constexpr float kMostActivation = 2.0f;

}  // namespace snnfast
