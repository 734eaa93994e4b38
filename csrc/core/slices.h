// SPDX-License-Identifier: Apache-2.0
// Weights as integers in digits of eight bits ("slices"), for matrix units that multiply bytes: weight = scale (a power
// of two, per output) times the integer with digits d2 d1 d0 in base 256, each from -128 to 127. Sums of an integer's
// digits are exact. pack_slices.h makes them; each backend lays them out as its unit wants them.
#pragma once

namespace snnfast {

constexpr int kFewestSlices = 2, kMostSlices = 3;

}  // namespace snnfast
