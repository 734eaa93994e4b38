// SPDX-License-Identifier: Apache-2.0
// A network with a code, whole: a warp takes one sample through all layers and steps until it may stop. A thread holds
// every 32nd neuron of a layer; what neurons have sent lies where the whole warp reads it. So nothing but the
// three other warps of its block waits for the longest decision.
//
// The order of every sum is that of python/snnfast/reference/codes.py: inputs ascending, silent ones left out, bias
// last.
#include "core/best.h"
#include "core/modes.h"
#include "core/neuron.h"
#include "cuda/inputs.h"

namespace snnfast::cuda {
namespace {

constexpr int kWarp = 32;
// Blocks that a multiprocessor can hold at least. Left alone, the compiler spares registers for more, and spills.
constexpr int kBlocks = 6;

struct Sample {
  int64_t row;      // in the batch
  int32_t lane;     // of the warp: the first neuron that this thread holds
  float* constant;  // (padded) current of the first layer
  float* state;     // of all hidden layers: membranes (of the lowest copies); digits: drives
  float* sent;      // the same: net spike counts; digits: what was sent
  float* values;    // (widest) what the layer that fired last has sent: the whole warp reads it
  float* next;      // (widest) what the layer that fires now sends
  float* current;   // (widest), of a turn
  float* received;  // (widest) what a layer has sent in its turn so far, in smallest spikes
  float* output;    // (padded last), all three
  float* weighted;
  float* running;  // the whole warp reads it
  float terms;     // digits, the same in all lanes, as are these: see cpu/coded_sample.h
  bool inside, above;
};

__device__ __forceinline__ Sample lay_out(const Coded& a, float* memory) {
  Sample s{};
  const auto take = [&](int64_t floats) {
    float* const begin = memory;
    memory += floats;
    return begin;
  };
  const int32_t last = a.layers[a.n_layers - 1].padded;
  s.constant = take(a.layers[0].padded);
  s.state = take(a.state);
  s.sent = take(a.state);
  s.values = take(a.widest);
  s.next = take(a.widest);
  s.current = take(a.widest);
  s.received = take(a.widest);
  s.output = take(last);
  s.weighted = take(last);
  s.running = take(last);
  return s;
}

// What the warp has written, the warp may read.
__device__ __forceinline__ void hand_over(Sample& s) {
  __syncwarp();
  float* const sent = s.next;
  s.next = s.values;
  s.values = sent;
}

// Call f(neuron) for the neurons of a thread, those included that only fill a layer up: the whole warp comes along.
template <class F>
__device__ __forceinline__ void for_neurons(const CodedLayer& layer, const Sample& s, F&& f) {
  for (int32_t j = s.lane; j < layer.padded; j += kWarp) f(j);
}

// Weights times what the layer before has sent, without the bias.
__device__ __forceinline__ float received_current(const CodedLayer& layer, const Sample& s, int32_t j) {
  float h = 0.0f;
  for (int32_t begin = 0; begin < layer.n_in; begin += kWarp) {
    const float value = begin + s.lane < layer.n_in ? s.values[begin + s.lane] : 0.0f;
    uint32_t sending = __ballot_sync(kWholeWarp, value > 0.0f || value < 0.0f);
    for (; sending; sending &= sending - 1) {
      const int32_t i = begin + __ffs(static_cast<int>(sending)) - 1;
      h = h + layer.weights[int64_t{i} * layer.padded + j] * s.values[i];
    }
  }
  return h;
}

__device__ __forceinline__ float current_of(const Coded& a, int32_t l, const Sample& s, int32_t j) {
  return l == 0 ? s.constant[j] : received_current(a.layers[l], s, j) + a.layers[l].bias[j];
}

// Where a neuron's spike or potential of a step is recorded.
__device__ __forceinline__ int64_t place(const Coded& a, const CodedLayer& layer, const Sample& s, int64_t t,
                                         int32_t j) {
  return (t * a.batch + s.row) * layer.n_out + j;
}

__device__ __forceinline__ void note(const Coded& a, const CodedLayer& layer, const Sample& s, int64_t t, int32_t j,
                                     float spike, float spikes, float potential) {
  if (j >= layer.n_out) return;
  if (layer.counts) layer.counts[s.row * layer.n_out + j] += spikes;
  if (layer.spikes) layer.spikes[place(a, layer, s, t, j)] = spike;
  if (layer.potentials) layer.potentials[place(a, layer, s, t, j)] = potential;
}

__device__ __forceinline__ bool margin_suffices(const Coded& a, const Sample& s, int64_t t) {
  const Best best = best_of(s.running, a.layers[a.n_layers - 1].n_out);
  return best.ordered && best.first - best.second > a.bounds[t];
}

// Whether the largest output stays the largest if worst(b) comes, for every other output b.
template <class F>
__device__ __forceinline__ bool leads(const Coded& a, const Sample& s, const Best& best, F&& worst) {
  const CodedLayer& last = a.layers[a.n_layers - 1];
  bool overtaken = false;
  for_neurons(last, s, [&](int32_t b) {
    if (b < last.n_out && b != best.index) {
      overtaken = overtaken || !((best.first - s.running[b]) + worst(b) > a.slack);
    }
  });
  return __ballot_sync(kWholeWarp, overtaken) == 0;
}

__device__ __forceinline__ bool radix_is_certain(const Coded& a, const Sample& s, int64_t t) {
  const CodedLayer& last = a.layers[a.n_layers - 1];
  const Best best = best_of(s.running, last.n_out);
  if (!best.ordered) return false;
  return leads(a, s, best, [&](int32_t b) { return a.left[t] * a.overtake[best.index * last.padded + b]; });
}

__device__ __forceinline__ bool digits_are_certain(const Coded& a, const Sample& s, int64_t t) {
  if (!s.inside || s.above) return false;
  const CodedLayer &hidden = a.layers[a.n_layers - 2], &last = a.layers[a.n_layers - 1];
  const Best best = best_of(s.running, last.n_out);
  if (!best.ordered) return false;
  const float *drive = s.state + hidden.state, *sent = s.sent + hidden.state, *drift = hidden.drift + t * hidden.padded;
  return leads(a, s, best, [&](int32_t b) {
    float sum = 0.0f;
    for (int32_t j = 0; j < hidden.n_out; ++j) {
      const float moves = drift[j] + s.terms * hidden.rounding[j];
      const float low = larger(drive[j] - moves, 0.0f) - sent[j];
      const float high = larger(drive[j] + moves, 0.0f) - sent[j];
      const float* weights = last.weights + int64_t{j} * last.padded;
      const float difference = weights[best.index] - weights[b];
      sum = sum + smaller(difference * low, difference * high);
    }
    return sum;
  });
}

// One step of all copies of a neuron under the current h: what they send.
template <bool Signed>
__device__ __forceinline__ float step_copies(const Coded& a, const CodedLayer& layer, const Sample& s, int32_t j,
                                             float h) {
  float &mem = s.state[layer.state + j], &net = s.sent[layer.state + j];
  if (a.even_level > 0.0f) {
    const EvenLevels<float> levels{static_cast<float>(a.copies), a.even_inverse, -a.even_level};
    return even_copies_step<Signed>(mem, net, h, levels, 0.0f);
  }
  const auto level = [&](int i) { return a.levels[i]; };
  return copies_step<Signed>(mem, net, h, a.copies, level, 0.0f, 1.0f);
}

template <bool Signed>
__device__ __forceinline__ void rate_step(const Coded& a, int64_t t, Sample& s) {
  const int32_t hidden = a.n_layers - 1;
  for (int32_t l = 0; l < hidden; ++l) {
    const CodedLayer& layer = a.layers[l];
    for_neurons(layer, s, [&](int32_t j) {
      const float h = current_of(a, l, s, j);
      const float sent = step_copies<Signed>(a, layer, s, j, h);
      s.next[j] = sent;
      note(a, layer, s, t, j, sent, magnitude(sent), s.state[layer.state + j]);
    });
    hand_over(s);
  }
  const CodedLayer& last = a.layers[hidden];
  const float divisor = a.divisors ? a.divisors[t] : a.mean ? static_cast<float>(a.timesteps) : 1.0f;
  for_neurons(last, s, [&](int32_t j) {
    const float h = current_of(a, hidden, s, j);
    const float total = s.output[j] + h;
    s.output[j] = total;
    s.weighted[j] = s.weighted[j] + (a.step_weights ? a.step_weights[t] * (a.leaves ? total : h) : total);
    s.running[j] = (a.final_potential ? total : s.weighted[j]) / divisor;
    if (last.potentials && j < last.n_out) last.potentials[place(a, last, s, t, j)] = total;
  });
  __syncwarp();
}

template <bool Signed>
__device__ __forceinline__ void digits_step(const Coded& a, int64_t t, Sample& s) {
  const int32_t hidden = a.n_layers - 1;
  bool within = true, inside = true;
  for (int32_t l = 0; l < hidden; ++l) {
    const CodedLayer& layer = a.layers[l];
    const float most = l + 1 < hidden ? 1.0f : kMostActivation;
    for_neurons(layer, s, [&](int32_t j) {
      float &drive = s.state[layer.state + j], &sent = s.sent[layer.state + j];
      if (l > 0) drive = drive + received_current(layer, s, j);
      const int64_t at = t * layer.padded + j;
      const float value = layer.values[at];
      const float wanted = layer.guards ? drive - layer.guards[at] : drive;
      bool fired;
      const float digit = digit_step<Signed>(clip(wanted, 0.0f, 1.0f), sent, value, layer.thresholds[at], 1.0f, fired);
      s.next[j] = digit * value;
      within = within && at_least(1.0f, drive);
      if (layer.drift) {
        inside = inside && at_least(most, drive + (layer.drift[at] + s.terms * layer.rounding[j]));
      }
      note(a, layer, s, t, j, digit, digit * digit, clip(drive, 0.0f, 1.0f) - sent);
    });
    hand_over(s);
  }
  s.above = __ballot_sync(kWholeWarp, !within) != 0;
  s.inside = __ballot_sync(kWholeWarp, !inside) == 0;
  const CodedLayer& last = a.layers[hidden];
  for_neurons(last, s, [&](int32_t j) {
    s.running[j] = s.running[j] + received_current(last, s, j);
    if (last.potentials && j < last.n_out) last.potentials[place(a, last, s, t, j)] = s.running[j];
  });
  __syncwarp();
}

// Steps from .. to - 1 of a turn of plain neurons with copies, under the constant current in s.current.
__device__ __forceinline__ void staged_steps(const Coded& a, int32_t l, int64_t from, int64_t to, Sample& s) {
  const CodedLayer& layer = a.layers[l];
  for_neurons(layer, s, [&](int32_t j) {
    const float h = s.current[j];
    float received = s.received[j];
    for (int64_t t = from; t < to; ++t) {
      const float sent = step_copies<false>(a, layer, s, j, h);
      received = received + sent * static_cast<float>(a.ramp ? a.timesteps - t : 1);  // whole numbers: exact
      note(a, layer, s, t, j, sent, sent, s.state[layer.state + j]);
    }
    s.received[j] = received;
  });
}

// Bits from .. to - 1 of the numbers in s.received: counted, and recorded with the membrane that doubles.
__device__ __forceinline__ void note_bits(const Coded& a, int32_t l, int64_t from, int64_t to, const Sample& s) {
  const CodedLayer& layer = a.layers[l];
  if (!layer.counts && !layer.spikes && !layer.potentials) return;
  for_neurons(layer, s, [&](int32_t j) {
    const auto number = static_cast<uint32_t>(s.received[j]);
#pragma unroll 1  // only where it is recorded
    for (int64_t t = from; t < to; ++t) {
      const auto at = static_cast<uint32_t>(a.timesteps - 1 - t);
      const auto bit = static_cast<float>(number >> at & 1u);
      // v = 2 (v - spike) after the step: the bits that are left, in units of half the highest one.
      const auto left = static_cast<float>(number & ((uint32_t{1} << at) - 1u));
      note(a, layer, s, t, j, bit, bit, 2.0f * left / static_cast<float>(uint32_t{1} << at));
    }
  });
}

// What was sent up to and including step t of a turn becomes what the next layer takes.
__device__ __forceinline__ void send_received(const Coded& a, int32_t l, int64_t t, Sample& s) {
  const auto at = static_cast<uint32_t>(a.timesteps - 1 - t);
  for_neurons(a.layers[l], s, [&](int32_t j) {
    const float received = s.received[j];
    s.next[j] = a.radix && at > 0 ? static_cast<float>(static_cast<uint32_t>(received) >> at << at) : received;
  });
  hand_over(s);
}

// A sample through all turns. Returns the steps of the last one.
__device__ __forceinline__ int64_t run_turns(const Coded& a, Sample& s, bool& certain) {
  const int32_t hidden = a.n_layers - 1;
  const int64_t T = a.timesteps;
  const float levels = static_cast<float>((int64_t{1} << (a.radix ? T : 0)) - 1);
  const CodedLayer& last = a.layers[hidden];
  for (int32_t l = 0; l < hidden; ++l) {
    for_neurons(a.layers[l], s, [&](int32_t j) {
      const float z = current_of(a, l, s, j);
      s.current[j] = z;
      s.received[j] = a.radix ? radix_number(z, levels, a.offset, 0.0f) : 0.0f;
    });
    // The last turn goes step by step where somebody looks at what has arrived by then.
    const int64_t at_once = l == hidden - 1 && (a.leaves || last.potentials) ? 1 : T;
    for (int64_t t = 0; t < T; t += at_once) {
      a.radix ? note_bits(a, l, t, t + at_once, s) : staged_steps(a, l, t, t + at_once, s);
      send_received(a, l, t + at_once - 1, s);
      if (l < hidden - 1) continue;
      for_neurons(last, s, [&](int32_t j) {
        s.running[j] = current_of(a, hidden, s, j);
        if (last.potentials && j < last.n_out) last.potentials[place(a, last, s, t, j)] = s.running[j];
      });
      __syncwarp();
      certain = a.leaves && radix_is_certain(a, s, t);
      __syncwarp();
      if (certain) return t + 1;
    }
  }
  return T;
}

// Before the first step; the layers' own sums begin at 0.
__device__ __forceinline__ void start(const Coded& a, int64_t row, Sample& s) {
  const CodedLayer &first = a.layers[0], &last = a.layers[a.n_layers - 1];
  for_neurons(first, s, [&](int32_t j) {
    float h = 0.0f;
    for (int32_t k = 0; k < a.inputs.features; ++k) {
      h = h + first.weights[int64_t{k} * first.padded + j] * encoded_input(a.inputs, row, k);
    }
    s.constant[j] = h + first.bias[j];
  });
  s.terms = 0.0f;
#pragma unroll 1  // few features, once per sample: not worth the code
  for (int32_t k = 0; a.largest && k < a.inputs.features; ++k) {
    s.terms = s.terms + a.largest[k] * fabsf(encoded_input(a.inputs, row, k));
  }
  for (int32_t l = 0; l + 1 < a.n_layers; ++l) {
    const CodedLayer& layer = a.layers[l];
#pragma unroll 1  // as above
    for (int32_t j = s.lane; j < layer.padded; j += kWarp) {
      s.state[layer.state + j] = a.levels ? a.start : l ? layer.bias[j] : s.constant[j];
      s.sent[layer.state + j] = 0.0f;
      if (layer.counts && j < layer.n_out) layer.counts[s.row * layer.n_out + j] = 0.0f;
    }
  }
  for_neurons(last, s, [&](int32_t j) {
    s.output[j] = s.weighted[j] = 0.0f;
    s.running[j] = last.bias[j];  // of digits
  });
}

// After the last step. `within`: steps of the last turn, or of all layers.
__device__ __forceinline__ void finish(const Coded& a, const Sample& s, int64_t within, bool certain, bool turns) {
  const CodedLayer& last = a.layers[a.n_layers - 1];
  for_neurons(last, s, [&](int32_t j) {
    if (j < last.n_out) a.output[s.row * last.n_out + j] = s.running[j];
  });
  if (s.lane == 0) {
    const int64_t before = turns ? (a.n_layers - 2) * a.timesteps : 0;
    if (a.steps) a.steps[s.row] = static_cast<float>(before + within);
    if (a.certified) a.certified[s.row] = certain ? 1.0f : 0.0f;
    if (a.saturated) a.saturated[s.row] = s.above ? 1.0f : 0.0f;
  }
  // Records of the steps that the sample no longer runs.
  for (int32_t l = turns ? a.n_layers - 2 : 0; l < a.n_layers; ++l) {
    const CodedLayer& layer = a.layers[l];
    if (!layer.spikes && !layer.potentials) continue;
    for_neurons(layer, s, [&](int32_t j) {
#pragma unroll 1  // as above
      for (int64_t t = within; t < a.timesteps && j < layer.n_out; ++t) {
        if (layer.spikes) layer.spikes[place(a, layer, s, t, j)] = 0.0f;
        if (layer.potentials) layer.potentials[place(a, layer, s, t, j)] = 0.0f;
      }
    });
  }
}

template <CodeKind kind, bool Signed>
__global__ void __launch_bounds__(kCodedWarps* kWarp, kBlocks) coded_kernel(const __grid_constant__ Coded a) {
  const int32_t warp = static_cast<int32_t>(threadIdx.x) / kWarp;
  const int64_t row = int64_t{blockIdx.x} * kCodedWarps + warp;
  if (row >= a.inputs.rows) return;
  Sample s = lay_out(a, a.memory ? a.memory + row * a.floats : dynamic_shared<float>() + warp * a.floats);
  s.row = a.inputs.first_row + row;
  s.lane = static_cast<int32_t>(threadIdx.x) % kWarp;
  start(a, row, s);
  if constexpr (kind == CodeKind::staged) {
    bool certain = false;
    const int64_t within = run_turns(a, s, certain);
    finish(a, s, within, certain, true);
  } else {
    for (int64_t t = 0; t < a.timesteps; ++t) {
      if constexpr (kind == CodeKind::rate) rate_step<Signed>(a, t, s);
      if constexpr (kind == CodeKind::digits) digits_step<Signed>(a, t, s);
      bool certain = false, stops = t + 1 == a.timesteps;
      if (a.leaves) {
        certain = kind == CodeKind::digits && !a.bounds && digits_are_certain(a, s, t);
        stops = stops || certain || (a.bounds && margin_suffices(a, s, t));
        __syncwarp();  // all have looked before anybody goes on
      }
      if (stops) return finish(a, s, t + 1, certain, false);
    }
  }
}

template <CodeKind kind, bool Signed>
void launch_coded(const Coded& a, void* stream) {
  const size_t shared = a.memory ? 0 : static_cast<size_t>(a.floats) * sizeof(float) * kCodedWarps;
  launch("coded", coded_kernel<kind, Signed>, {blocks_for(a.inputs.rows, kCodedWarps), 1}, kCodedWarps * kWarp, shared,
         stream, a);
}

}  // namespace

void coded(const Coded& a, void* stream) {
  switch (a.kind) {
    case CodeKind::rate:
      return a.signed_spikes ? launch_coded<CodeKind::rate, true>(a, stream)
                             : launch_coded<CodeKind::rate, false>(a, stream);
    case CodeKind::digits:
      return a.signed_spikes ? launch_coded<CodeKind::digits, true>(a, stream)
                             : launch_coded<CodeKind::digits, false>(a, stream);
    default:  // staged and radix: hidden layers take turns
      return launch_coded<CodeKind::staged, false>(a, stream);
  }
}

}  // namespace snnfast::cuda
