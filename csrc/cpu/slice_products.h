// SPDX-License-Identifier: Apache-2.0
// Products of a block's spikes (bytes) with the slices of some output tiles, step after step, for method "slices".
//
// Six of the eight tiles hold sums, one spikes and one digits. What limits the products is not the unit that multiplies
// but what feeds it, so:
//   * of layers with few inputs, whose digits stay in the first cache, one load of spikes serves several output tiles;
//     of others, digits in the first cache serve several steps;
//   * a sum leaves its tile just before the next step needs that tile, when all its products are long done. To store
//     them all at the end of a step would be to wait for the last products, which takes a third as long as they did;
//   * sums are used then, a few samples beside each input tile's products, since the vector units would be idle
//     meanwhile; the room that sums take in the first cache is that of one step.
#pragma once

#include "cpu/simd.h"
#include "cpu/slices.h"
#include "cpu/tiles.h"

namespace snnfast {
namespace {

constexpr int kSumTiles = 6;
constexpr int64_t kSumsOfTile = kSliceRows * kSliceOutputs;
constexpr int64_t kFewInputTiles = 5;  // whose digits, of two output tiles, leave the first cache some room

// S slices of O output tiles in P steps at once. Sums: (steps, output tiles, slices, samples, outputs).
template <int S, int O, int P>
class SliceProducts {
  static constexpr int kTiles = S * O * P;
  static_assert(kTiles <= kSumTiles);

 public:
  SliceProducts(const SliceView& slices, const uint8_t* bytes, int64_t steps)
      : slices_(slices), bytes_(bytes), steps_(steps) {}

  // Calls use(sums, t, i) for steps t .. t + P - 1 at once, ascending, and every sample i. The last ones may be steps
  // that there are not, with sums of others.
  template <class Use>
  SNNFAST_INLINE void run(Tiles& tiles, int64_t first_output_tile, int64_t samples, const Use& use) {
    const int64_t inputs = slices_.input_tiles, steps = steps_, row = inputs * S * kSliceBytes;
    const int64_t pauses = 2 * inputs - 1, at_once = (samples + pauses - 1) / pauses;
    int64_t t = 0;
    for (; t < steps; t += P) {
      const uint8_t* const spikes = bytes_ + t * inputs * kSliceBytes;
      const int64_t left = steps - t;
      const int8_t* digits = slices_.digits + first_output_tile * row;
      int64_t next = t > 0 ? 0 : samples;
      const auto use_some = [&]() SNNFAST_ALWAYS {
        const int64_t until = next + at_once < samples ? next + at_once : samples;
        for (; next < until; ++next) use(sums_, t - P, next);
      };
      for (int64_t k = 0; k < inputs; ++k, digits += S * kSliceBytes) {
        const uint8_t* const of[] = {spikes + k * kSliceBytes, spikes + (left > 1 ? inputs + k : k) * kSliceBytes,
                                     spikes + (left > 2 ? 2 * inputs + k : k) * kSliceBytes};
        if (k == 0) {
          start<0, kTiles>(tiles, of, digits, row);
        } else {
          multiply<0, kTiles / 2>(tiles, of, digits, row);
          use_some();
          multiply<kTiles / 2, kTiles>(tiles, of, digits, row);
        }
        use_some();
      }
    }
    store<0>(tiles);
    for (int64_t i = 0; i < samples; ++i) use(sums_, t - P, i);
  }

 private:
  // Tile I: step I / (O S), output tile I / S % O, slice I % S.
  template <int I>
  SNNFAST_INLINE static void load(Tiles& tiles, const uint8_t* const* spikes, const int8_t* digits, int64_t row) {
    if constexpr (I % (O * S) == 0) tiles.template load<6>(spikes[I / (O * S)]);
    tiles.template load<7>(digits + I / S % O * row + I % S * kSliceBytes);
  }

  template <int I, int End>
  SNNFAST_INLINE static void multiply(Tiles& tiles, const uint8_t* const* spikes, const int8_t* digits, int64_t row) {
    if constexpr (I < End) {
      load<I>(tiles, spikes, digits, row);
      tiles.template multiply<I>();
      multiply<I + 1, End>(tiles, spikes, digits, row);
    }
  }

  // The first products of some steps; the sums of the steps before leave. Before the first ones they are nobody's.
  template <int I, int End>
  SNNFAST_INLINE void start(Tiles& tiles, const uint8_t* const* spikes, const int8_t* digits, int64_t row) {
    if constexpr (I < End) {
      load<I>(tiles, spikes, digits, row);
      tiles.template store<I>(sums_ + I * kSumsOfTile);
      tiles.template zero<I>();
      tiles.template multiply<I>();
      start<I + 1, End>(tiles, spikes, digits, row);
    }
  }

  template <int I>
  SNNFAST_INLINE void store(Tiles& tiles) {
    if constexpr (I < kTiles) {
      tiles.template store<I>(sums_ + I * kSumsOfTile);
      store<I + 1>(tiles);
    }
  }

  const SliceView& slices_;
  const uint8_t* const bytes_;
  const int64_t steps_;
  alignas(64) int32_t sums_[kTiles * kSumsOfTile];
};

}  // namespace
}  // namespace snnfast
