// SPDX-License-Identifier: Apache-2.0
// One layer over a tile of steps by products of whole matrices on the tensor cores: spikes, as bytes, times weights in
// slices of eight bits (core/pack_slices.h), then the neuron step.
//
// The sums are integers, so their order changes nothing. They are joined as the CPU backend joins them
// (cpu/layer_slices.h), so the result has the bits of its method "slices", and where weights lie on a grid those of the
// canonical sum: docs/numerics.md.
//
// Two kernels. In a plain hidden layer a block holds the slices of a panel of outputs, and each of its warps takes 16
// outputs of 32 samples from step to step, with the neurons' state in registers. For all else, last layers above all,
// of which there are too few outputs for that, a block takes 16 outputs of 16 samples: its warps make the sums of
// several steps at a time, and then every thread takes one neuron through these steps.
#include "cuda/inputs.h"
#include "cuda/lane.h"
#include "cuda/rule.h"

namespace snnfast::cuda {
namespace {

// Sums start here instead of at 0: the bits of the float 1.5 * 2^23. Read as a float, the bits of such a sum are that
// number plus the sum, exactly, as long as it stays below 2^22. It spares the conversions, which are slow.
constexpr int32_t kStart = 0x4B400000;
constexpr float kStartAsFloat = 12582912.0f;

__device__ __forceinline__ float to_float(int32_t sum) { return __int_as_float(sum) - kStartAsFloat; }

// The bits of four inputs of a word as four bytes of 1 or 0: those that slice_input() in kernels.h names.
__device__ __forceinline__ uint32_t spread(uint32_t word, int shift) { return word >> shift & 0x01010101u; }

// What a warp sums: groups of 16 samples, 16 outputs. A thread has two samples of a group, 8 rows apart, and four
// outputs side by side.
template <int Groups>
class Sums {
 public:
  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int g = 0; g < Groups; ++g) {
#pragma unroll
      for (int n = 0; n < 2; ++n) {
#pragma unroll
        for (int slice = 0; slice < kMostSlices; ++slice) {
#pragma unroll
          for (int i = 0; i < 4; ++i) sums_[g][n][slice][i] = kStart;
        }
      }
    }
  }

  // The products of 32 inputs. `word`: the spikes of this thread's samples; `digits`: of the 16 outputs, its part.
  __device__ __forceinline__ void add(const uint32_t (&word)[Groups][2], const uint4* digits, int32_t slices,
                                      int shift) {
    uint32_t bytes[Groups][4];
#pragma unroll
    for (int g = 0; g < Groups; ++g) {
      bytes[g][0] = spread(word[g][0], shift);
      bytes[g][1] = spread(word[g][1], shift);
      bytes[g][2] = spread(word[g][0], shift + 1);
      bytes[g][3] = spread(word[g][1], shift + 1);
    }
#pragma unroll
    for (int slice = 0; slice < kMostSlices; ++slice) {
      if (slice == kMostSlices - 1 && slices < kMostSlices) break;
      const uint4 four = digits[slice * 32];
#pragma unroll
      for (int g = 0; g < Groups; ++g) {
        add_products(sums_[g][0][slice], bytes[g], four.x, four.y);
        add_products(sums_[g][1][slice], bytes[g], four.z, four.w);
      }
    }
  }

  // Of sample `half` of a group and output e, in units of the output's scale.
  __device__ __forceinline__ float joined(int g, int half, int e, int32_t slices) const {
    const int n = e / 2, i = 2 * half + e % 2;
    const float low = __fmaf_rn(to_float(sums_[g][n][1][i]), 256.0f, to_float(sums_[g][n][0][i]));
    return slices == kMostSlices ? __fmaf_rn(to_float(sums_[g][n][2][i]), 65536.0f, low) : low;
  }

 private:
  int32_t sums_[Groups][2][kMostSlices][4];  // two times 8 outputs; per slice, the lowest first
};

// The spikes of a thread's samples, step by step, two words of each at a time. The next two are always on their way.
template <int Groups>
class SpikeReader {
 public:
  // `row`: the thread's first sample, `rows`: how many there are from it on; its others, if there are none so far, read
  // what the first one does, and nobody asks what comes of it. Beyond the last step nothing is read.
  __device__ __forceinline__ SpikeReader(const Layer& a, int64_t row, int32_t rows, int32_t words, int32_t first,
                                         int32_t stride)
      : steps_(static_cast<int32_t>(a.steps) - first), stride_(stride), words_(words), row_words_(a.input.stride) {
    at_ = a.input.words + word_index(a.input, row, first, a.steps, 0);
    const auto group = static_cast<int32_t>(a.steps * a.input.stride * 16);
#pragma unroll
    for (int g = 0; g < Groups; ++g) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        offset_[g][half] = 16 * g + 8 * half < rows ? g * group + half * (kTiledWords / 2) : 0;
      }
    }
    if (steps_ > 0) fetch(at_, words_);
  }

  // Adds the products of a step, and goes on to the next.
  __device__ __forceinline__ void add(Sums<Groups>& sums, const uint4* digits, int32_t slices, int shift) {
    const uint32_t* at = at_;
    at_ += 16 * row_words_ * stride_;
    steps_ -= stride_;
    for (int32_t left = words_; left > 0; left -= 2) {
      uint32_t first[Groups][2], second[Groups][2];
#pragma unroll
      for (int g = 0; g < Groups; ++g) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          first[g][half] = next_[g][half].x;
          second[g][half] = next_[g][half].y;
        }
      }
      at += (words_ - left) % 4 == 0 ? 2 : kTiledWords - 2;
      if (left > 2) {
        fetch(at, left - 2);
      } else if (steps_ > 0) {
        fetch(at_, words_);
      }
      sums.add(first, digits, slices, shift);
      if (left > 1) sums.add(second, digits + slices * 32, slices, shift);
      digits += 2 * slices * 32;
    }
  }

 private:
  // Two words of each sample, or the one that is left.
  __device__ __forceinline__ void fetch(const uint32_t* at, int32_t left) {
#pragma unroll
    for (int g = 0; g < Groups; ++g) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if (left > 1) {
          next_[g][half] = *reinterpret_cast<const uint2*>(at + offset_[g][half]);
        } else {
          next_[g][half].x = at[offset_[g][half]];
        }
      }
    }
  }

  const uint32_t* at_;  // the step that comes next
  int32_t steps_, stride_, words_, row_words_;
  int32_t offset_[Groups][2];
  uint2 next_[Groups][2];
};

__device__ __forceinline__ void copy_digits(uint4* to, const Layer& a, int32_t first_tile, int32_t tiles,
                                            int32_t tile_size) {
  const uint4* from = reinterpret_cast<const uint4*>(a.digits) + int64_t{first_tile} * tile_size;
  for (int i = static_cast<int>(threadIdx.x); i < tiles * tile_size; i += static_cast<int>(blockDim.x)) {
    to[i] = from[i];
  }
}

// A layer that convert() makes, with nothing recorded: immediate order, no decay, reset by subtraction.
constexpr int kGroups = kPanelRows / 16;

// Warps: at most. Fewer have registers to fetch weights ahead.
template <int Warps>
__global__ void __launch_bounds__(Warps * 32, 1) slices_panel_kernel(const __grid_constant__ Layer a) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int row_in_group = lane / 4, in_quad = lane % 4;
  const int32_t words = (a.n_in + 31) / 32, all_tiles = (a.n_out + kTensorOutputs - 1) / kTensorOutputs;
  const int32_t first_tile = static_cast<int32_t>(blockIdx.y) * a.panel_tiles;
  const int32_t tiles = all_tiles - first_tile < a.panel_tiles ? all_tiles - first_tile : a.panel_tiles;
  const int32_t tile_size = words * a.slices * 32, in_panel = warp % a.panel_tiles;
  uint4* const digits = dynamic_shared<uint4>();
  copy_digits(digits, a, first_tile, tiles, tile_size);
  __syncthreads();
  if (in_panel >= tiles) return;

  using Rule = NeuronRule<false, Reset::subtraction, false, false>;
  const NeuronConstants<Lane> constants{{0.0f}, {1.0f}, {a.constants.threshold}};
  const int32_t output = (first_tile + in_panel) * kTensorOutputs + 4 * in_quad;  // and the three after it
  // A row of spikes has whole words: where the last tile is the first half of one, it writes the other half too.
  const bool whole_word = first_tile + in_panel == all_tiles - 1 && all_tiles % 2 == 1;
  const int64_t first_row = blockIdx.x * a.rows_per_block;
  const int64_t left = a.rows - first_row < a.rows_per_block ? a.rows - first_row : a.rows_per_block;
  const auto all_rows = static_cast<int32_t>(left), steps = static_cast<int32_t>(a.steps);
  const auto group_bits = static_cast<int32_t>(a.steps * a.bits.stride * 32);  // of the spikes it sends, in half words
  const int32_t row_step = a.warps / a.panel_tiles * kPanelRows;
  for (int32_t begin = warp / a.panel_tiles * kPanelRows; begin < all_rows; begin += row_step) {
    const int64_t row = first_row + begin + row_in_group, state = row * a.padded + output;
    const int32_t rows = all_rows - begin - row_in_group;
    Lane mem[kGroups][2][4];
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const bool stored = a.t0 > 0 && 16 * g + 8 * half < rows;
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          mem[g][half][e].value = stored                 ? a.mem[state + (16 * g + 8 * half) * a.padded + e]
                                  : output + e < a.n_out ? a.initial
                                                         : 0.0f;
        }
      }
    }
    // Threads whose samples are not there read those of the block's first one.
    SpikeReader<kGroups> spikes(a, rows > 0 ? row : first_row, rows, words, 0, 1);
    // Two threads of the quad write: one for the first sample of a group, one for the second.
    const bool writes = in_quad < 2;
    auto* target = reinterpret_cast<uint16_t*>(
                       a.bits.words + word_index(a.bits, row + (writes ? 8 * in_quad : 0), 0, a.steps, output / 32)) +
                   output / 16 % 2;
    for (int32_t t = 0; t < steps; ++t) {
      Sums<kGroups> sums;
      sums.clear();
      spikes.add(sums, digits + in_panel * tile_size + lane, a.slices, 2 * in_quad);
      const float4 scales = *reinterpret_cast<const float4*>(a.scale + output);
      const float4 biases = *reinterpret_cast<const float4*>(a.bias + output);
      const float scale[4] = {scales.x, scales.y, scales.z, scales.w};
      const float bias[4] = {biases.x, biases.y, biases.z, biases.w};
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
        // Bits of the first sample, and 16 higher of the second, as a whole number above 2^23: its lowest bits.
        float bits = 8388608.0f;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            // The scale is a power of two, so only the sum is rounded.
            const Lane h{__fmaf_rn(sums.joined(g, half, e, a.slices), scale[e], bias[e])};
            Lane none;
            const Fired spike = Rule::step(mem[g][half][e], none, h, constants);
            bits = __fmaf_rn(spike.value, static_cast<float>(1u << (16 * half + e)), bits);
          }
        }
        uint32_t fired = static_cast<uint32_t>(__float_as_int(bits)) & 0xf000fu;
        // The four threads of a sample put their bits together.
        fired <<= 4 * in_quad;
        fired |= __shfl_xor_sync(kWholeWarp, fired, 1, 32);
        fired |= __shfl_xor_sync(kWholeWarp, fired, 2, 32);
        if (writes && 16 * g + 8 * in_quad < rows) {
          uint16_t* const to = target + g * group_bits;
          to[0] = static_cast<uint16_t>(in_quad == 0 ? fired : fired >> 16);
          if (whole_word) to[1] = 0;
        }
      }
      target += 2 * step_words(a.bits);
    }
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          if (16 * g + 8 * half < rows) a.mem[state + (16 * g + 8 * half) * a.padded + e] = mem[g][half][e].value;
        }
      }
    }
  }
}

// Plain: a last layer that convert() makes, with nothing recorded but its output.
template <bool Plain>
__global__ void __launch_bounds__(kStepWarps * 32) slices_steps_kernel(const __grid_constant__ Layer a) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int row_in_group = lane / 4, in_quad = lane % 4;
  const int32_t words = (a.n_in + 31) / 32, tile = static_cast<int32_t>(blockIdx.y);
  const int32_t all_tiles = (a.n_out + kTensorOutputs - 1) / kTensorOutputs;
  float* const currents = dynamic_shared<float>();  // (warps, 16 samples, 16 outputs)
  uint4* const digits = reinterpret_cast<uint4*>(currents + kStepWarps * 256);
  copy_digits(digits, a, tile, 1, words * a.slices * 32);
  __syncthreads();

  const NeuronConstants<float> constants{a.constants.alpha, a.constants.beta, a.constants.threshold};
  const int32_t output = tile * kTensorOutputs + thread % 16;
  const bool there = output < a.n_out;
  const float scale = a.scale[output], bias = a.bias[output];
  const bool counting = !Plain && (a.counts || a.spike_output), summing = !Plain && a.total;
  const bool fires = !Plain && a.rule.fires;
  const bool whole_word = tile == all_tiles - 1 && all_tiles % 2 == 1;
  const int64_t first_row = blockIdx.x * a.rows_per_block;
  const int64_t end_row = first_row + a.rows_per_block < a.rows ? first_row + a.rows_per_block : a.rows;
  const int32_t steps = static_cast<int32_t>(a.steps);
  for (int64_t begin = first_row; begin < end_row; begin += 16) {
    const int64_t row = begin + thread / 16, state = row * a.padded + output;
    const int64_t sample = a.first_row + row, at = sample * a.n_out + output;
    const bool real = row < end_row, stored = real && a.t0 > 0;
    float mem = stored ? a.mem[state] : there ? a.initial : 0.0f;
    float syn = stored ? a.syn[state] : 0.0f;
    float total = stored && summing ? a.total[state] : 0.0f;
    float count = stored && there && counting ? (a.counts ? a.counts : a.spike_output)[at] : 0.0f;
    const int64_t left = end_row - begin - row_in_group;
    SpikeReader<1> spikes(a, left > 0 ? begin + row_in_group : begin, left < 16 ? static_cast<int32_t>(left) : 16,
                          words, warp, kStepWarps);
    for (int32_t t0 = 0; t0 < steps; t0 += kStepWarps) {
      if (t0 + warp < steps) {
        Sums<1> sums;
        sums.clear();
        spikes.add(sums, digits + lane, a.slices, 2 * in_quad);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float4 four;
          four.x = sums.joined(0, half, 0, a.slices);
          four.y = sums.joined(0, half, 1, a.slices);
          four.z = sums.joined(0, half, 2, a.slices);
          four.w = sums.joined(0, half, 3, a.slices);
          reinterpret_cast<float4*>(currents)[warp * 64 + (row_in_group + 8 * half) * 4 + in_quad] = four;
        }
      }
      __syncthreads();
#pragma unroll 1
      for (int i = 0; i < kStepWarps; ++i) {
        const int32_t t = t0 + i;
        if (t >= steps) break;
        const float h = __fmaf_rn(currents[i * 256 + thread], scale, bias);
        bool spike = false;
        const auto step = [&](auto rule) {
          const bool fired = rule.step(mem, syn, h, constants);
          if constexpr (rule.fires) spike = fired;
        };
        if constexpr (Plain) {
          step(NeuronRule<false, Reset::none, false, false>{});
        } else {
          with_rule(a.rule, step);
        }
        if (fires) {
          const uint32_t bits = __ballot_sync(kWholeWarp, spike);  // of two samples
          if (lane % 16 == 0 && real) {
            auto* const to =
                reinterpret_cast<uint16_t*>(a.bits.words + word_index(a.bits, row, t, a.steps, tile / 2)) + tile % 2;
            to[0] = static_cast<uint16_t>(bits >> lane);
            if (whole_word) to[1] = 0;
          }
        }
        if (counting) count += spike ? 1.0f : 0.0f;
        if (summing) total = total + mem;
        if (!Plain && real && there && (a.spikes || a.potentials)) {
          const int64_t record = ((a.t0 + t) * a.batch + sample) * a.n_out + output;
          if (a.spikes) a.spikes[record] = spike ? 1.0f : 0.0f;
          if (a.potentials) a.potentials[record] = mem;
        }
      }
      __syncthreads();  // before these currents are overwritten
    }
    if (!real) continue;
    a.mem[state] = mem;
    a.syn[state] = syn;
    if (summing) a.total[state] = total;
    if (!there) continue;
    if (!Plain && a.counts) a.counts[at] = count;
    if (!Plain && a.spike_output) a.spike_output[at] = count;
    // Written by every tile of steps; the last one's stays.
    if (a.output) a.output[at] = summing ? total / static_cast<float>(a.timesteps) : mem;
  }
}

}  // namespace

int64_t panel_shared_bytes(int64_t n_in, int64_t slices) { return (n_in + 31) / 32 * slices * kTensorOutputs * 32; }

int64_t steps_shared_bytes(int64_t n_in, int64_t slices) {
  return kStepWarps * 256 * static_cast<int64_t>(sizeof(float)) + panel_shared_bytes(n_in, slices);
}

void slices(const Layer& a, void* stream) {
  const int64_t tiles = (a.n_out + kTensorOutputs - 1) / kTensorOutputs;
  Grid grid{(a.rows + a.rows_per_block - 1) / a.rows_per_block, tiles};
  if (a.panel_tiles > 0) {
    grid.y = (tiles + a.panel_tiles - 1) / a.panel_tiles;
    const int64_t shared = a.panel_tiles * panel_shared_bytes(a.n_in, a.slices);
    const auto kernel =
        a.warps > kFewPanelWarps ? slices_panel_kernel<kPanelWarps> : slices_panel_kernel<kFewPanelWarps>;
    return launch("slices_panel", kernel, grid, a.warps * 32, static_cast<size_t>(shared), stream, a);
  }
  const auto shared = static_cast<size_t>(steps_shared_bytes(a.n_in, a.slices));
  if (is_plain(a)) {
    launch("slices_steps", slices_steps_kernel<true>, grid, kStepWarps * 32, shared, stream, a);
  } else {
    launch("slices_steps", slices_steps_kernel<false>, grid, kStepWarps * 32, shared, stream, a);
  }
}

}  // namespace snnfast::cuda
