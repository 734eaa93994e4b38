// SPDX-License-Identifier: Apache-2.0
// What the Plan and the kernels know of each other: plain descriptions of one launch each, and the functions that
// launch. A kernel is defined and launched in the .cu file of the same name; all work is queued on `stream`, nothing
// is allocated, nothing waits.
//
// A call goes over the batch in chunks of samples and over time in tiles of steps. Within a chunk samples are `rows`.
#pragma once

#include <cstdint>

#include "core/modes.h"
#include "core/slices.h"

namespace snnfast::cuda {

// Outputs of a layer are cut into panels of 4 * lanes neurons: a group of `lanes` threads holds a panel of one sample,
// four neurons a thread. The weights of a panel are n_in rows of that width and one more row of zeros, which stands in
// where a list of events has no more entries. Within a row, the four neurons of a thread lie side by side:
// see position().
constexpr int kWideLanes = 32, kNarrowLanes = 8;
// Warps of a block that takes most of a multiprocessor's shared memory to itself.
constexpr int kWideWarps = 32, kNarrowWarps = 28;

// Where output o of a layer lies in its arrays.
constexpr int64_t position(int64_t o, int64_t lanes) {
  const int64_t width = 4 * lanes, within = o % width;
  return o / width * width + within % lanes * 4 + within / lanes;
}

constexpr int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Code of a neuron rule (core/neuron.h) for kernels that choose it while they run.
struct RuleCode {
  bool delayed, fires, reset_to_zero, has_alpha, has_beta;
};

struct Constants {
  float alpha, beta, threshold;
};

// The numbers that are to be encoded: observations, with the bias input and split if the network asks for it.
struct Inputs {
  const float* observations;  // (batch, n_in)
  int64_t first_row;          // of the chunk within the batch
  int64_t rows;
  int32_t n_in, features;
  bool split, bias;
};

// Spikes of one layer or of the encoded input: bit o % 32 of word o / 32 is output o.
struct Bits {
  uint32_t* words;  // (rows, steps, stride); tiled, for slices.cu: (rows / 16, steps, stride / 4, 16 rows, 4)
  int32_t stride;
  bool tiled;
};

// The same as lists of ids, ascending, filled up to a multiple of 4 with an id whose weights are zeros.
struct Lists {
  uint16_t* ids;     // (rows, steps, capacity)
  int32_t* sizes;    // (rows, steps)
  int32_t capacity;  // a multiple of 4
  int32_t filler;    // n_in of the layer that reads
};

// encode.cu: inputs become spikes.
struct Encode {
  Inputs inputs;
  bool poisson;  // else equidistant
  uint64_t seed, first_sample;
  int64_t t0, steps;
  float* next_spike;  // (rows, 32 * stride), equidistant: number of each input's next spike, from tile to tile
  float* counts;      // (batch, features) or null
  Bits bits;
};
void encode(const Encode& a, void* stream);

// current.cu: the first layer's current from numbers that stay the same at every step.
struct Current {
  Inputs inputs;
  const float* weights;
  const float* bias;  // (padded)
  int32_t lanes, padded;
  float* current;  // (rows, padded)
};
void current(const Current& a, void* stream);

// compact.cu: bits become lists.
struct Compact {
  Bits bits;
  Lists lists;
  int64_t count;  // rows * steps
};
void compact(const Compact& a, void* stream);

// layer.cu: one layer over a tile of steps.
struct Layer {
  const float* weights;  // of a sliced layer, not used
  const float* bias;     // (padded)
  const float* current;  // (rows, padded), the same at every step; or null: then `lists` make it
  Lists lists;
  int32_t n_in, n_out, padded, lanes;
  bool weights_in_shared;
  int32_t warps;           // per block
  int64_t rows_per_block;  // of every panel; a warp takes one at a time
  RuleCode rule;
  Constants constants;
  float initial;  // membrane potential before the first step
  int64_t rows, first_row, batch;
  int64_t t0, steps, timesteps;
  float *mem, *syn;             // (rows, padded), from tile to tile
  float* total;                 // (rows, padded): sum of the membrane potentials, or null
  Bits bits;                    // written if the layer fires
  Bits input;                   // read by slices.cu, which makes the current of it; tiled
  const int8_t* digits;         // (tiles, words of input, slices, 32 threads, 16); the lowest slice first
  const float* scale;           // (padded)
  int32_t slices, panel_tiles;  // tiles of a block; 0: a block takes 16 samples of one tile
  float* counts;                // (batch, n_out) spike counts, or null
  float* spike_output;          // the same once more, as the network's output, or null
  float* output;                // (batch, n_out) final or mean potential, or null
  float* spikes;                // (timesteps, batch, n_out) or null
  float* potentials;            // (timesteps, batch, n_out) or null
};
int64_t layer_shared_bytes(int64_t n_in, int64_t lanes);
void layer(const Layer& a, void* stream);
// What convert() makes, with nothing recorded but the last layer's potential: immediate order, no decay, reset by
// subtraction in a hidden layer, none in a last one.
constexpr bool is_plain(const Layer& a) {
  const RuleCode& rule = a.rule;
  return !(rule.delayed || rule.has_alpha || rule.has_beta || (rule.fires && rule.reset_to_zero) || a.counts ||
           a.total || a.spike_output || a.spikes || a.potentials);
}

// slices.cu: the same by products of whole matrices, of weights in slices (core/pack_slices.h). Outputs are cut into
// tiles of 16; state lies in their own order.
constexpr int kTensorOutputs = 16, kTiledWords = 64;                   // words of 16 samples, four each
constexpr int kPanelWarps = 16, kFewPanelWarps = 12, kPanelRows = 32;  // of a block; samples of a warp
constexpr int kStepWarps = 8;
// The tensor cores take inputs in an order of their own: part r (0 or 1) of thread q (0 to 3) of a quad, byte i, is
// this one of a word's 32 inputs; and row g (0 to 7) of half n of a tile is this one of its 16 outputs.
constexpr int slice_input(int r, int q, int i) { return 8 * i + 2 * q + r; }
constexpr int slice_output(int n, int g) { return g / 2 * 4 + 2 * n + g % 2; }
int64_t panel_shared_bytes(int64_t n_in, int64_t slices);  // of each tile of a panel
int64_t steps_shared_bytes(int64_t n_in, int64_t slices);
void slices(const Layer& a, void* stream);

// first_spike.cu: the last layer's spikes at the first step that has any.
struct FirstSpike {
  Bits bits;
  int32_t n_out;
  int64_t rows, first_row, steps;
  bool first_tile;
  int32_t* answered;  // (rows), from tile to tile
  float* output;      // (batch, n_out)
};
void first_spike(const FirstSpike& a, void* stream);

// tiny.cu: a network of one or two hidden layers of up to 16 neurons, whole, one sample a thread.
constexpr int kTinyWidth = 16;
struct Tiny {
  const float* observations;  // (batch, n_in)
  float* output;              // (batch, n_out)
  const float* first;         // (n_in, 16): weights of the first layer, inputs along the rows
  int64_t batch, timesteps;
  int32_t n_in, n_out, hidden;  // hidden: layers that fire, 1 or 2
  bool delayed, mean;
  float threshold, initial[2][kTinyWidth];
  float first_bias[kTinyWidth];
  float second[kTinyWidth * kTinyWidth], second_bias[kTinyWidth];  // (inputs, neurons)
  float last[kTinyWidth * kTinyWidth], last_bias[kTinyWidth];      // (inputs, outputs rounded up to 2, 4 or 16)
};
// What conversions make. Every kernel is in the wheel seven times, so others have fewer made to measure.
constexpr bool tiny_usual(bool delayed, float threshold) { return !delayed && threshold == 1.0f; }
// How many outputs the last layer of a tiny network is rounded up to.
constexpr int tiny_outputs(bool usual, int64_t n_out) { return usual && n_out <= 2 ? 2 : n_out <= 4 ? 4 : kTinyWidth; }
void tiny(const Tiny& a, void* stream);

// coded.cu: a network with a code, whole, one sample a warp.
constexpr int kMostCodedLayers = 24;  // all of a launch's arguments are at most 4 KiB
constexpr int kCodedWarps = 4;        // of a block

struct CodedLayer {
  const float* weights;                               // (n_in, padded)
  const float* bias;                                  // (padded)
  const float *values, *thresholds, *guards, *drift;  // digits: (timesteps, padded); the last two may be null
  const float* rounding;                              // digits: (padded), or null
  float *counts, *spikes, *potentials;                // (batch, n_out), twice (timesteps, batch, n_out), or null
  int32_t n_in, n_out, padded;
  int32_t state;  // where the layer's state begins in a sample's, in floats
};

struct Coded {
  Inputs inputs;
  CodedLayer layers[kMostCodedLayers];
  int32_t n_layers, copies;
  int32_t state, widest;  // floats of all hidden layers' states; of the widest layer
  CodeKind kind;
  bool signed_spikes, ramp, radix, leaves;
  bool mean, final_potential;  // what is decoded: the mean, the last potential, or else a weighted sum
  float start, even_level, even_inverse, offset, slack;           // even_level: see core/code.h; and its inverse
  const float *levels, *step_weights, *divisors, *bounds, *left;  // see core/code.h; null if empty
  const float* overtake;                                          // (n_out, padded), or null
  const float* largest;                                           // (features), or null
  int64_t timesteps, batch;
  float *output, *steps, *certified, *saturated;  // the last three may be null
  float* memory;                                  // (rows, floats), or null: then shared memory holds them
  int64_t floats;                                 // that a sample carries
};
void coded(const Coded& a, void* stream);

}  // namespace snnfast::cuda
