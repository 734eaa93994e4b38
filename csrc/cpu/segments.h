// SPDX-License-Identifier: Apache-2.0
// How the inputs of a layer that takes spikes are cut: into segments whose rows of weights stay in the first cache
// while they are added. Every segment begins with a row of zeros.
#pragma once

#include <cstdint>

namespace snnfast {
namespace {  // compiled once per instruction set

struct Segments {
  int64_t count, inputs;  // inputs: of each but the last, which has the rest
  int64_t rows;           // of all segments together

  // `most`: inputs of a segment, whole words of spikes.
  Segments(int64_t n_in, int64_t most) : count((n_in + most - 1) / most), inputs(n_in), rows(n_in + count) {
    if (count > 1) inputs = ((n_in + count - 1) / count + 63) / 64 * 64;
  }
  // Where the weights of input k are.
  int64_t row(int64_t k) const { return k + k / inputs + 1; }
};

}  // namespace
}  // namespace snnfast
