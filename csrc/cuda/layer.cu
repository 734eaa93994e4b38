// SPDX-License-Identifier: Apache-2.0
// One layer over a tile of steps: event-driven sums, then the neuron step at once, with the neurons' state in registers
// all the while. A block keeps one panel of the weights in shared memory; each of its warps takes samples through all
// steps. Four neurons a thread: a wide panel takes the whole warp, a narrow one a group of it, and then the groups make
// the currents of several steps at a time and all carry the neurons through them.
//
// Exact: adding the weight rows of the inputs that spiked, ascending, to a sum that starts at +0 gives the bits of the
// whole chain of products, because x + 0 is x. That is also why lists may be filled up with an input of weight 0.
#include "cuda/inputs.h"
#include "cuda/rule.h"

namespace snnfast::cuda {
namespace {

enum class Source { constant, shared, global };  // of the current: given; or events, with the weights' place

// Everything one thread knows of its four neurons.
struct Neurons {
  float mem[4], syn[4], total[4], count[4];
};

__device__ __forceinline__ void add(float (&h)[4], const float4& w) {
  h[0] = h[0] + w.x;
  h[1] = h[1] + w.y;
  h[2] = h[2] + w.z;
  h[3] = h[3] + w.w;
}

__device__ __forceinline__ void set(float (&h)[4], const float4& w) {
  h[0] = w.x;
  h[1] = w.y;
  h[2] = w.z;
  h[3] = w.w;
}

// The words of spikes of a panel, from each thread's four.
template <int Lanes>
__device__ __forceinline__ uint32_t gather_spikes(const bool (&spike)[4], int lane) {
  uint32_t ballot[4];
#pragma unroll
  for (int e = 0; e < 4; ++e) ballot[e] = __ballot_sync(kWholeWarp, spike[e]);
  if constexpr (Lanes == 32) {  // ballot e holds outputs 32 e .. 32 e + 31
    return lane == 0 ? ballot[0] : lane == 1 ? ballot[1] : lane == 2 ? ballot[2] : ballot[3];
  } else {  // every byte of ballot e holds outputs 8 e .. 8 e + 7
    return (ballot[0] & 0xffu) | (ballot[1] & 0xffu) << 8 | (ballot[2] & 0xffu) << 16 | ballot[3] << 24;
  }
}

// The events of one sample. A warp of narrow groups takes as many steps at a time as it has groups. A list comes a
// chunk at a time: each thread of the group fetches four ids and gives them to the others. What the next steps begin
// with is fetched ahead, and so is how long the lists after those are, so that nobody waits for memory.
template <int Lanes>
class EventReader {
 public:
  __device__ __forceinline__ EventReader(const Layer& a, int64_t row, int lane)
      : stride_(a.lists.capacity / 4),
        lane_(lane % Lanes),
        filler_(static_cast<uint32_t>(a.lists.filler) * 0x10001u),
        ids_(reinterpret_cast<const uint2*>(a.lists.ids + row * a.steps * a.lists.capacity) + lane / Lanes * stride_),
        sizes_(a.lists.sizes + row * a.steps + lane / Lanes),
        left_(static_cast<int32_t>(a.steps) - lane / Lanes),
        size_(left_ > 0 ? sizes_[0] : 0),
        next_size_(left_ > kSteps ? sizes_[kSteps] : 0),
        chunk_(fetch(ids_, 0, size_)) {}

  // Adds the weights of the events of this group's step to h, and goes on. The groups of a warp keep together: those
  // with fewer events add zeros meanwhile.
  __device__ __forceinline__ void add_events(const float4* weights, float (&h)[4]) {
    const uint2* const next_ids = ids_ + kSteps * stride_;
    const int32_t after_next = left_ > 2 * kSteps ? sizes_[2 * kSteps] : 0;
    const uint2 next_chunk = fetch(next_ids, 0, next_size_);
    const int32_t quads = longest(size_) / 4;
    for (int32_t begin = 0; begin < quads; begin += Lanes) {
      const uint2 now = chunk_;
      if (begin + Lanes < quads) chunk_ = fetch(ids_, begin + Lanes, size_);
      const int32_t count = quads - begin < Lanes ? quads - begin : Lanes;
#pragma unroll 2
      for (int32_t i = 0; i < count; ++i) {
        const uint32_t x = __shfl_sync(kWholeWarp, now.x, i, Lanes), y = __shfl_sync(kWholeWarp, now.y, i, Lanes);
        const float4 w0 = weights[static_cast<int32_t>(x & 0xffffu) * Lanes + lane_];
        const float4 w1 = weights[static_cast<int32_t>(x >> 16) * Lanes + lane_];
        const float4 w2 = weights[static_cast<int32_t>(y & 0xffffu) * Lanes + lane_];
        const float4 w3 = weights[static_cast<int32_t>(y >> 16) * Lanes + lane_];
        add(h, w0);
        add(h, w1);
        add(h, w2);
        add(h, w3);
      }
    }
    ids_ = next_ids;
    sizes_ += kSteps;
    left_ -= kSteps;
    size_ = next_size_;
    next_size_ = after_next;
    chunk_ = next_chunk;
  }

 private:
  static constexpr int kSteps = 32 / Lanes;

  __device__ __forceinline__ uint2 fetch(const uint2* list, int32_t begin, int32_t size) const {
    uint2 ids;
    ids.x = ids.y = filler_;
    if ((begin + lane_) * 4 < size) ids = list[begin + lane_];
    return ids;
  }

  // Of the groups of the warp.
  static __device__ __forceinline__ int32_t longest(int32_t size) {
#pragma unroll
    for (int distance = Lanes; distance < 32; distance *= 2) {
      const int32_t other = __shfl_xor_sync(kWholeWarp, size, distance, 32);
      size = other > size ? other : size;
    }
    return size;
  }

  int32_t stride_, lane_;
  uint32_t filler_;
  const uint2* ids_;
  const int32_t* sizes_;
  int32_t left_;
  int32_t size_, next_size_;
  uint2 chunk_;
};

// General: any rule, counts, records. The others are plain: see is_plain in kernels.h.
enum class Mode { general, hidden, last };

// Warps of a block at most: as many as there are registers for.
constexpr int most_warps(int lanes, Source source, Mode mode) {
  if (source == Source::constant) return kWideWarps;
  if (source == Source::global || mode == Mode::general) return 16;
  return lanes == kWideLanes ? kWideWarps : kNarrowWarps;
}

template <int Lanes, Source source, Mode mode>
__global__ void __launch_bounds__(most_warps(Lanes, source, mode) * 32, 1)
    layer_kernel(const __grid_constant__ Layer a) {
  constexpr int kSteps = 32 / Lanes, kWidth = 4 * Lanes;
  constexpr bool kGeneral = mode == Mode::general;
  const int lane = static_cast<int>(threadIdx.x) % 32, in_group = lane % Lanes;
  const int64_t panel = blockIdx.y, first_row = blockIdx.x * a.rows_per_block;
  const int64_t end_row = first_row + a.rows_per_block < a.rows ? first_row + a.rows_per_block : a.rows;
  const float4* weights =
      reinterpret_cast<const float4*>(a.weights + (source == Source::constant ? 0 : panel * (a.n_in + 1) * kWidth));
  if constexpr (source == Source::shared) {
    float4* const copy = dynamic_shared<float4>();
    for (int i = static_cast<int>(threadIdx.x); i < (a.n_in + 1) * Lanes; i += static_cast<int>(blockDim.x)) {
      copy[i] = weights[i];
    }
    __syncthreads();
    weights = copy;
  }
  const NeuronConstants<float> constants{a.constants.alpha, a.constants.beta, a.constants.threshold};
  float bias[4];
  set(bias, *reinterpret_cast<const float4*>(a.bias + panel * kWidth + in_group * 4));
  const bool first_tile = a.t0 == 0;
  const bool counting = kGeneral && (a.counts || a.spike_output), summing = kGeneral && a.total;
  const bool fires = kGeneral ? a.rule.fires : mode == Mode::hidden;
  // All groups of a warp carry the same neurons on; the first one writes what became of them.
  const bool owns = lane < Lanes, writes_word = Lanes == 32 ? lane < 4 : lane == 0;

  for (int64_t row = first_row + static_cast<int>(threadIdx.x) / 32; row < end_row; row += a.warps) {
    const int64_t sample = a.first_row + row, state = row * a.padded + panel * kWidth + in_group * 4;
    const int64_t neuron = panel * kWidth + in_group;  // and the three at distances of Lanes
    Neurons s;
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int64_t o = neuron + e * Lanes;
      s.mem[e] = first_tile ? (o < a.n_out ? a.initial : 0.0f) : a.mem[state + e];
      s.syn[e] = first_tile ? 0.0f : a.syn[state + e];
      s.total[e] = first_tile || !summing ? 0.0f : a.total[state + e];
      s.count[e] = 0.0f;
      if (!first_tile && counting && o < a.n_out) {
        s.count[e] = (a.counts ? a.counts : a.spike_output)[sample * a.n_out + o];
      }
    }
    // Everybody has read the state before anybody overwrites it, at the end.
    if constexpr (kSteps > 1) __syncwarp();
    const int32_t word_of_row = static_cast<int32_t>(panel) * (kWidth / 32) + (Lanes == 32 ? lane % 4 : 0);
    uint32_t* word_at = a.bits.words + word_index(a.bits, row, 0, a.steps, word_of_row);
    float h[4] = {};
    if constexpr (source == Source::constant) set(h, *reinterpret_cast<const float4*>(a.current + state));
    const auto make_reader = [&] {
      if constexpr (source == Source::constant) {
        return 0;
      } else {
        return EventReader<Lanes>(a, row, lane);
      }
    };
    auto events = make_reader();

    const int32_t steps = static_cast<int32_t>(a.steps);
    for (int32_t t0 = 0; t0 < steps; t0 += kSteps) {
      if constexpr (source != Source::constant) {
#pragma unroll
        for (int e = 0; e < 4; ++e) h[e] = 0.0f;
        events.add_events(weights, h);
#pragma unroll
        for (int e = 0; e < 4; ++e) h[e] = h[e] + bias[e];
      }
#pragma unroll
      for (int i = 0; i < kSteps; ++i) {
        const int32_t t = t0 + i;
        if (t >= steps) break;
        float now[4];  // the current of step t, which group i has
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          now[e] = h[e];
          if constexpr (kSteps > 1 && source != Source::constant) {
            now[e] = __shfl_sync(kWholeWarp, h[e], i * Lanes + in_group, 32);
          }
        }
        bool spike[4] = {};
        const auto step = [&](auto rule) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const bool fired = rule.step(s.mem[e], s.syn[e], now[e], constants);
            if constexpr (rule.fires) spike[e] = fired;
          }
        };
        if constexpr (kGeneral) {
          with_rule(a.rule, step);
        } else {
          step(NeuronRule<false, mode == Mode::hidden ? Reset::subtraction : Reset::none, false, false>{});
        }
        if (fires) {
          const uint32_t word = gather_spikes<Lanes>(spike, lane);
          if (writes_word) *word_at = word;
          word_at += step_words(a.bits);
        }
        if constexpr (kGeneral) {
          if (counting) {
#pragma unroll
            for (int e = 0; e < 4; ++e) s.count[e] += spike[e] ? 1.0f : 0.0f;
          }
          if (summing) {
#pragma unroll
            for (int e = 0; e < 4; ++e) s.total[e] = s.total[e] + s.mem[e];
          }
          if (owns && (a.spikes || a.potentials)) {
            const int64_t record = ((a.t0 + t) * a.batch + sample) * a.n_out;
#pragma unroll
            for (int e = 0; e < 4; ++e) {
              const int64_t o = neuron + e * Lanes;
              if (o >= a.n_out) continue;
              if (a.spikes) a.spikes[record + o] = spike[e] ? 1.0f : 0.0f;
              if (a.potentials) a.potentials[record + o] = s.mem[e];
            }
          }
        }
      }
    }

    if (!owns) continue;
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      a.mem[state + e] = s.mem[e];
      a.syn[state + e] = s.syn[e];
      if (summing) a.total[state + e] = s.total[e];
      const int64_t o = neuron + e * Lanes, at = sample * a.n_out + o;
      if (o >= a.n_out) continue;
      if (kGeneral && a.counts) a.counts[at] = s.count[e];
      if (kGeneral && a.spike_output) a.spike_output[at] = s.count[e];
      // Written by every tile; the last one's stays.
      if (a.output) a.output[at] = summing ? s.total[e] / static_cast<float>(a.timesteps) : s.mem[e];
    }
  }
}

template <int Lanes, Source source, Mode mode>
void launch_mode(Layer a, void* stream) {
  if (a.warps > most_warps(Lanes, source, mode)) a.warps = most_warps(Lanes, source, mode);
  const Grid grid{(a.rows + a.rows_per_block - 1) / a.rows_per_block, a.padded / (4 * Lanes)};
  const size_t shared = source == Source::shared ? static_cast<size_t>(layer_shared_bytes(a.n_in, Lanes)) : 0;
  launch("layer", layer_kernel<Lanes, source, mode>, grid, a.warps * 32, shared, stream, a);
}

template <int Lanes, Source source>
void launch_layer(const Layer& a, void* stream) {
  if (!is_plain(a)) {
    launch_mode<Lanes, source, Mode::general>(a, stream);
  } else if (a.rule.fires) {
    launch_mode<Lanes, source, Mode::hidden>(a, stream);
  } else {
    launch_mode<Lanes, source, Mode::last>(a, stream);
  }
}

}  // namespace

int64_t layer_shared_bytes(int64_t n_in, int64_t lanes) { return (n_in + 1) * 4 * lanes * 4; }

void layer(const Layer& a, void* stream) {
  if (a.current) {
    a.lanes == kWideLanes ? launch_layer<kWideLanes, Source::constant>(a, stream)
                          : launch_layer<kNarrowLanes, Source::constant>(a, stream);
  } else if (a.weights_in_shared) {
    a.lanes == kWideLanes ? launch_layer<kWideLanes, Source::shared>(a, stream)
                          : launch_layer<kNarrowLanes, Source::shared>(a, stream);
  } else {
    launch_layer<kNarrowLanes, Source::global>(a, stream);
  }
}

}  // namespace snnfast::cuda
