// SPDX-License-Identifier: Apache-2.0
// Slices with the vectors of one instruction set and plain tiles; SCAN is the function's name.
#include <cstdlib>

#include "case.h"
#include "cpu/arena.h"
#include "cpu/layer_slices.h"

namespace snnfast {

void SCAN(const SliceCase& c) {
  NetworkView net{};
  net.alpha = c.alpha;
  net.beta = c.beta;
  net.threshold = c.threshold;
  net.delayed = c.delayed;
  net.reset_to_zero = c.reset_to_zero;
  SliceScan scan{};
  scan.slices = c.slices;
  scan.bytes = c.bytes;
  scan.count = c.samples;
  scan.steps = c.steps;
  scan.n_out = c.n_out;
  scan.padded = c.padded;
  scan.bits_stride = c.bits_stride;
  scan.potentials_stride = c.samples * c.n_out;
  for (int64_t i = 0; i < c.samples; ++i) {
    scan.mem[i] = c.mem + i * c.padded;
    scan.syn[i] = c.syn + i * c.padded;
    scan.total[i] = c.total ? c.total + i * c.padded : nullptr;
    scan.spike_bits[i] = c.spike_bits + i * c.steps * c.bits_stride;
    scan.potentials[i] = c.potentials ? c.potentials + i * c.n_out : nullptr;
  }
  Arena sizes{nullptr};
  take_slices(sizes, c.steps);
  char* const memory = static_cast<char*>(std::aligned_alloc(64, static_cast<size_t>(sizes.used)));
  Arena arena{memory};
  const SliceScratch scratch = take_slices(arena, c.steps);
  const LayerView layer{};  // of layers in doubt only
  with_rule(net, c.fires, [&](auto rule) {
    using Rule = decltype(rule);
    for (int64_t j = 0; j < c.slices->output_tiles;) {
      j += c.slices->slices == 2 ? scan_slices<Rule, 2>(scan, scratch, net, layer, j)
                                 : scan_slices<Rule, 3>(scan, scratch, net, layer, j);
    }
  });
  std::free(memory);
  // Spikes of one layer are the next one's bytes.
  uint64_t word = 0x9e3779b97f4a7c15u;
  uint8_t expanded[64];
  for (int shift = 0; shift < 64; ++shift, word = word << 1 | word >> 63) {
    expand_bits(word, expanded);
    for (int i = 0; i < 64; ++i) {
      if (expanded[i] != (word >> i & 1u)) __builtin_trap();
    }
  }
}

}  // namespace snnfast
