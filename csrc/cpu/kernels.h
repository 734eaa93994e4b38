// SPDX-License-Identifier: Apache-2.0
// What the portable code (Plan) and the kernels, compiled once per instruction set, know of each other. Plain types
// only: a file compiled with special flags must not instantiate anything the linker could share with the others.
#pragma once

#include <cstdint>

#include "core/request.h"
#include "cpu/code_view.h"
#include "cpu/slices.h"
#include "cpu/spike_trains.h"
#include "cpu/table.h"

namespace snnfast {

// Cooperative stop: kernels ask now and then, and return false as soon as the answer is yes. Asking leaves the mode of
// floating point as it was.
struct Interrupt {
  bool (*poll)(void* context);
  void* context;
};

constexpr int64_t kMaxBlock = kSliceRows;  // samples per call of run_block
// Of run_coded: samples that stop early leave lanes to others, of which there must be enough.
constexpr int64_t kCodedBlock = 4096;

constexpr int64_t kMostSteps = 128;  // of a tile: its currents stay in the first cache

// Lanes of the instruction sets whose masks cost nothing, so that step_lanes.h pays.
constexpr int64_t kStepLanes = 16;

// Weights as integers times a power of two per output, for prefix sums, in panels of `Kernels::sum_row` outputs, the
// rest in panels of one vector, each of which ends with a row of zeros.
struct SumsView {
  const int32_t* rows;
  const float* scale;  // (padded)
  bool in_doubt;       // spikes have to be those of the canonical sums, and these are not: certain_spikes.h
};

// A layer with its weights packed for one instruction set. Outputs are padded to whole vectors and cut into panels of
// `Kernels::panel` outputs; panel p holds n_in rows of its width, at weights + p * panel * n_in. Padding is zero, so a
// padded neuron never fires: its membrane stays at 0, below every threshold.
// A layer that takes spikes has `rows` instead of `weights`: narrower panels, of `Kernels::row` outputs, and a row of
// zeros before each segment of inputs (segments.h, of at most `Kernels::most_rows`).
struct LayerView {
  const float* weights;
  const float* rows;
  // (n_out, n_in): weights once more, of a last layer of few outputs that only accumulates, or of a layer in doubt.
  const float* by_output;
  const float *usual, *excess;  // (padded, and to whole tiles), of a layer in doubt: how large an output's weights are
  const float* bias;     // (padded), zeros where the layer has none: h + 0 is h, as a sum that began at +0 is never -0
  const float* initial;  // (padded) membrane potential before the first step
  int64_t n_in, n_out, padded, panels;
  bool fires;
  const SliceView* slices;  // null: not for this layer
  const SumsView* sums;     // of the second layer, behind a constant current; null: it has none
};

struct NetworkView {
  const LayerView* layers;
  int64_t n_layers;
  float alpha, beta, threshold;
  bool delayed, reset_to_zero;
  int64_t timesteps;
  int encoding, decoding;  // enum values of core/spec.h
  bool split_inputs, bias_input;
  int64_t n_in;              // of an observation
  int64_t tile;              // time steps that a layer runs before the next layer follows
  int64_t block;             // samples per call of run_block, at most
  const TableView* tables;   // of the method "tables", else null
  bool always_slices;        // use the slices that there are, whatever they cost
  bool always_sums;          // and the prefix sums
  bool counted;              // the last layer accumulates, and may do so from its inputs' counts of spikes
  const CodeView* code;      // null: plain neurons
  const TrainsView* trains;  // of the first of the layers that have tables; null: run its neurons
  // Whether the processor has VBMI2, and whether VBMI and GFNI, which the instruction sets here do not ask for.
  bool packs_bytes, turns_bits;
  bool slow_broadcasts;  // whether it needs an operation to spread a number in memory over a vector, beside the load
};

// What ceiling_loop does over and over; measure_ceiling.h says what each of them means.
enum class Ceiling { add, add_few, mul_add, step, step_latency, add_memory, read, matrix };
constexpr int64_t kCeilingFloats = 128;  // memory for ceiling_loop is a multiple of this

struct Kernels {
  const char* isa;
  int64_t lanes, panel, row, most_rows, sum_row;
  bool slices;       // whether there is the method "slices"
  bool matrix_unit;  // whether it can pay
  // Bytes of scratch memory that run_block needs, aligned to 64.
  int64_t (*scratch_bytes)(const NetworkView&);
  // Run samples first .. first + count - 1 for all time steps. False if interrupted.
  bool (*run_block)(const NetworkView&, const Request&, int64_t first, int64_t count, char* scratch, const Interrupt&);
  // The same by tables: narrow layers, constant encoding, no records.
  int64_t (*tables_scratch_bytes)(const NetworkView&);
  bool (*run_tables)(const NetworkView&, const Request&, int64_t first, int64_t count, char* scratch, const Interrupt&);
  // The same for a network with a code.
  int64_t (*coded_scratch_bytes)(const NetworkView&);
  bool (*run_coded)(const NetworkView&, const Request&, int64_t first, int64_t count, char* scratch, const Interrupt&);
  // One layer over time: current (steps, width) -> spikes (steps, width); membrane (width) is updated in place.
  bool (*if_forward)(const float* current, float* membrane, float* spikes, int64_t steps, int64_t width, int64_t first,
                     int64_t last, float threshold, bool delayed, const Interrupt&);
  // For benchmarks: one operation over and over; how many units of it were done.
  double (*ceiling_loop)(Ceiling what, const float* memory, int64_t floats, int64_t rounds);
};

extern const Kernels kernels_baseline;
#if defined(SNNFAST_X86)
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
extern const Kernels kernels_amx;
#endif

}  // namespace snnfast
